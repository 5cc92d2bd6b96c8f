//! Peers in the configuration file.

use super::{MANAGER, load, problems};

#[test]
fn peer_name_is_its_authority_by_default() {
    let config = load(&format!(
        "{MANAGER}[[peer]]\nurl = \"http://Relay2:2967\"\n[[peer]]\nurl = \"https://relay3\"\nname = \"third\"\n"
    ));
    let peers = config.unwrap().peers;
    let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(names, ["relay2:2967", "third"]);
    assert_eq!(peers[0].url, "http://relay2:2967");
}

#[test]
fn invalid_peers_are_reported_with_their_line() {
    let manager = "[[upstream]]\nurl = \"http://manager\"\nname = \"manager\"\n";
    for (peers, expected) in [
        ("[[peer]]\nname = \"two\"\n", "4: peer.url: missing required key"),
        (
            "[[peer]]\nurl = \"relay\"\n",
            "5: peer.url: \"relay\" has no scheme: write it like http://relay2:2967",
        ),
        (
            "[[peer]]\nurl = \"http://manager\"\n",
            "5: peer.url: http://manager/ is also an upstream: remove it from peers or upstreams",
        ),
        (
            "[[peer]]\nurl = \"http://relay\"\nname = \"manager\"\n",
            "6: peer.name: \"manager\" is the name of an upstream: give the peer its own name",
        ),
        (
            "[[peer]]\nurl = \"http://relay\"\n[[peer]]\nurl = \"http://relay\"\n",
            "6: peer.name: duplicate name \"relay\": give each peer its own name",
        ),
        (
            "[[peer]]\nurl = \"http://relay\"\nlimit = \"1MiB/s\"\n",
            "6: peer.limit: unknown key: peer has the keys url, name, ca, pin, client_cert, client_key, verify",
        ),
        (
            "[[peer]]\nurl = \"http://relay\"\nca = \"c\"\n",
            "6: peer.ca: is set, but the URL is http: use https or remove it",
        ),
        ("[peer]\nurl = \"http://relay\"\n", "4: peer: expected a list of tables: write [[peer]]"),
    ] {
        assert_eq!(problems(load(&format!("{manager}{peers}"))), [format!("gupd.toml:{expected}")]);
    }
    let many: String = (0..9).map(|at| format!("[[peer]]\nurl = \"http://relay{at}\"\n")).collect();
    let lines = problems(load(&format!("{manager}{many}")));
    assert_eq!(lines, ["gupd.toml:21: peer.url: too many peers: configure at most 8"]);
}

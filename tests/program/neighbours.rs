//! `server.client_identity`: a host with twenty addresses of each family on the relay's link, and two hosts of one IPv6
//! network. Each test runs itself again in a network namespace, with pairs of virtual cards between relay and hosts.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use crate::process::{PATIENCE, Relay, gupd};
use crate::support::{Manager, Resource};

const NAMESPACE: &str = "GUPD_TEST_NAMESPACE";

/// Cards between this namespace and another one that stays until the test ends, with the addresses of its host.
const LINK: &str = "
ip link set lo up
unshare -n sleep 600 > /dev/null 2>&1 & host=$!
until [ \"$(readlink /proc/$host/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done
ip link add relay type veth peer name host netns $host
ip address add 10.9.0.1/24 dev relay && ip address add fd00:9::1/32 dev relay nodad && ip link set relay up
nsenter -t $host -n ip link set host up
for last in $(seq 101 120); do
  nsenter -t $host -n ip address add 10.9.0.$last/24 dev host
  nsenter -t $host -n ip address add fd00:9:0:$last::1/32 dev host nodad
done
echo $host";

/// Two hosts of one IPv6 network, each with cards of its own to this namespace.
const TWO_LINKS: &str = "
ip link set lo up
ip address add fd00:9::1/128 dev lo
for number in 1 2; do
  unshare -n sleep 600 > /dev/null 2>&1 & host=$!
  until [ \"$(readlink /proc/$host/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done
  ip link add relay$number type veth peer name host netns $host
  ip address add fe80::1/64 dev relay$number nodad && ip link set relay$number up
  nsenter -t $host -n ip address add fd00:9:0:101::$number/128 dev host nodad
  nsenter -t $host -n ip address add fe80::2/64 dev host nodad
  nsenter -t $host -n ip link set host up
  nsenter -t $host -n ip -6 route add fd00:9::1/128 via fe80::1 dev host
  ip -6 route add fd00:9:0:101::$number/128 dev relay$number
  echo $host
done";

/// Returns an address of the host by its number.
type AddressOf = fn(u32) -> String;

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Asks for `target` from one address of the host and returns the status; empty if curl fails.
fn ask(host: &str, from: &str, relay: SocketAddr, target: &str) -> String {
    let url = format!("http://{relay}{target}");
    let curl =
        ["-t", host, "-n", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", from, &url];
    run("nsenter", &curl).unwrap_or_default()
}

/// Returns true in a namespace of its own. Otherwise runs the test again in one, where that is possible.
fn enter_namespace(name: &str) -> bool {
    if std::env::var_os(NAMESPACE).is_some() {
        return true;
    }
    let programs = [("unshare", "-rn"), ("ip", "-V"), ("curl", "-V"), ("nsenter", "-V")];
    let is_missing = |(program, option): (&str, &str)| match program {
        "unshare" => run(program, &[option, "true"]).is_none(),
        _ => run(program, &[option]).is_none(),
    };
    if programs.into_iter().any(is_missing) {
        println!("SKIPPED: no namespaces here, or no ip, curl or nsenter");
        return false;
    }
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("-rn").arg(test).args(["--exact", &format!("neighbours::{name}"), "--nocapture"]);
    assert!(command.env(NAMESPACE, "1").status().unwrap().success());
    false
}

/// `gupd serve` with 15 new names for each client.
fn serve_few_names(manager: &Manager, store: &std::path::Path, listen: &str, identity: &str) -> Command {
    let mut command = gupd(["serve", "--listen", listen, "--admin", "127.0.0.1:0", "--upstream"]);
    command.arg(manager.url()).arg("--store").arg(store).env("GUPD_STORE_MIN_FREE", "0");
    command.env("GUPD_SERVER_CLIENT_IDENTITY", identity).env("GUPD_CLIENTS_NEW_NAMES", "15");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn host_with_twenty_addresses_is_one_client() {
    if !enter_namespace("host_with_twenty_addresses_is_one_client") {
        return;
    }
    let host = run("sh", &["-c", LINK]).expect("the link is set up");
    let families: [(&str, AddressOf); 2] = [
        ("10.9.0.1:0", |last| format!("10.9.0.{last}")),
        ("[fd00:9::1]:0", |last| format!("fd00:9:0:{last}::1")),
    ];
    let cases = families.into_iter().flat_map(|family| [(family, "mac", true), (family, "address", false)]);
    for ((listen, address), identity, is_one) in cases {
        let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
        let relay = Relay::start(&mut serve_few_names(&manager, folder.path(), listen, identity));
        // No address asks for more names than it may. The relay knows each a second after its first request.
        let rounds = if is_one { 14 } else { 3 };
        let mut asked = (0..rounds).flat_map(|name| (101..121).map(move |last| (name, last)));
        let is_refused = asked.any(|(name, last)| {
            let target = format!("/content/1/{last}-{name}.dax");
            manager.put(&target, Resource::new(target.clone()));
            ask(&host, &address(last), relay.address, &target) == "503"
        });
        assert_eq!(is_refused, is_one, "{listen} {identity}");
    }
    run("kill", &[&host]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_of_one_network_are_two_clients() {
    if !enter_namespace("two_hosts_of_one_network_are_two_clients") {
        return;
    }
    let hosts = run("sh", &["-c", TWO_LINKS]).expect("the links are set up");
    let (first, second) = hosts.split_once('\n').expect("two hosts");
    for (identity, are_two) in [("mac", true), ("address", false)] {
        let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
        let listen = "[fd00:9::1]:0";
        let relay = Relay::start(&mut serve_few_names(&manager, folder.path(), listen, identity));
        let ask_new = |host: &str, number: usize, name: usize| {
            let target = format!("/content/1/{number}-{name}.dax");
            manager.put(&target, Resource::new(target.clone()));
            ask(host, &format!("fd00:9:0:101::{number}"), relay.address, &target)
        };
        assert_eq!((ask_new(first, 1, 0), ask_new(second, 2, 0)), ("200".to_owned(), "200".to_owned()));
        // The relay knows the hosts a second later. Until then they are one client.
        let deadline = Instant::now() + PATIENCE;
        let mut refused = (1..).filter(|name| ask_new(first, 1, *name) == "503");
        let has_own_names = |name| ask_new(second, 2, name) == "200";
        if are_two {
            let is_own = refused.by_ref().take_while(|_| Instant::now() < deadline).any(has_own_names);
            assert!(is_own, "{identity}");
        } else {
            assert!(!refused.by_ref().take(20).any(has_own_names), "{identity}");
        }
    }
    assert!(run("kill", &[first, second]).is_some());
}

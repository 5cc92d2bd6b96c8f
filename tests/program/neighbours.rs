//! `server.client_identity`: a host with twenty addresses of each family on the relay's link. The test runs itself
//! again in a network namespace, with a pair of virtual cards between relay and host. Each IPv6 address is of a network
//! of its own.

use std::net::SocketAddr;
use std::process::Command;

use crate::process::{Relay, gupd};
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

#[tokio::test(flavor = "multi_thread")]
async fn host_with_twenty_addresses_is_one_client() {
    if std::env::var_os(NAMESPACE).is_none() {
        let programs = [("unshare", "-rn"), ("ip", "-V"), ("curl", "-V"), ("nsenter", "-V")];
        if programs.iter().any(|(program, option)| match *program {
            "unshare" => run(program, &[option, "true"]).is_none(),
            _ => run(program, &[option]).is_none(),
        }) {
            return println!("SKIPPED: no namespaces here, or no ip, curl or nsenter");
        }
        let test = std::env::current_exe().unwrap();
        let name = "neighbours::host_with_twenty_addresses_is_one_client";
        let mut command = Command::new("unshare");
        command.arg("-rn").arg(test).args(["--exact", name, "--nocapture"]).env(NAMESPACE, "1");
        return assert!(command.status().unwrap().success());
    }
    let host = run("sh", &["-c", LINK]).expect("the link is set up");
    let families: [(&str, AddressOf); 2] = [
        ("10.9.0.1:0", |last| format!("10.9.0.{last}")),
        ("[fd00:9::1]:0", |last| format!("fd00:9:0:{last}::1")),
    ];
    let cases = families.into_iter().flat_map(|family| [(family, "mac", true), (family, "address", false)]);
    for ((listen, address), identity, is_one) in cases {
        let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
        let mut command = gupd(["serve", "--listen", listen, "--admin", "127.0.0.1:0", "--upstream"]);
        command.arg(manager.url()).arg("--store").arg(folder.path()).env("GUPD_STORE_MIN_FREE", "0");
        command.env("GUPD_SERVER_CLIENT_IDENTITY", identity).env("GUPD_CLIENTS_NEW_NAMES", "15");
        let relay = Relay::start(&mut command);
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

//! The status page: each page is whole and loads nothing from elsewhere, commands need a session of the own origin, and a
//! browser shows it at every width and in both themes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::{Relay, serve};
use crate::rollout::{Place, order};
use crate::support::{Manager, PAYLOAD, Request, Resource, Response, bytes, get};

const PAGES: [&str; 6] = ["/", "/clients", "/content", "/rollout", "/line", "/events"];
const WIDTHS: [u32; 3] = [375, 768, 1280];
const THEMES: [&str; 2] = ["light", "dark"];

fn text(response: Response) -> String {
    String::from_utf8(response.expect_body()).unwrap()
}

fn post(admin: SocketAddr, path: &str, form: &str) -> Request {
    post_from(&format!("http://{admin}"), path, form)
}

fn post_from(origin: &str, path: &str, form: &str) -> Request {
    Request::new("POST", path)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Origin", origin)
        .body(form.as_bytes())
}

/// Signs in and returns the cookie.
async fn sign_in(admin: SocketAddr) -> String {
    let response = post(admin, "/sign-in", "token=s3cret-of-the-site").send(admin).await;
    assert_eq!((response.status, response.header("Location")), (303, Some("/rollout")), "{response:?}");
    let cookie = response.header("Set-Cookie").unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict;") && !cookie.contains("Secure"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

async fn form_token(admin: SocketAddr, cookie: &str) -> String {
    let page = text(Request::get("/rollout").header("Cookie", cookie).send(admin).await);
    let (_, rest) = page.split_once("name=\"form_token\" value=\"").unwrap_or_else(|| panic!("{page}"));
    rest.split('"').next().unwrap().to_owned()
}

async fn is_halted(relay: &Relay) -> bool {
    let status: Value = serde_json::from_str(&text(get(relay.admin, "/api/v1/rollout").await)).unwrap();
    !status["halted"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_whole_and_loads_nothing_from_elsewhere() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 3 << 20)));
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    relay.wait_until_stored(PAYLOAD).await;
    for page in PAGES {
        let response = get(relay.admin, page).await;
        assert_eq!(response.status, 200, "{page}");
        let policy = response.header("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"));
        let text = text(response);
        assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"), "{page}: {text}");
        assert!(text.contains("<h1") && text.contains("lang=\"en\"") && text.contains("id=\"main\""));
        // What the policy forbids would only show in a browser.
        for foreign in ["http://", "https://", " style=", " onclick=", "<style", "<iframe"] {
            assert!(!text.contains(foreign), "{foreign} in {page}: {text}");
        }
    }
    let overview = text(get(relay.admin, "/").await);
    assert!(overview.contains("nothing to do"), "{overview}");
    let line = text(get(relay.admin, "/line?since=7d").await);
    assert!(line.contains("<rect") && line.contains(PAYLOAD), "{line}");
    for (asset, media_type) in [("/style.css", "text/css"), ("/live.js", "text/javascript")] {
        let response = get(relay.admin, asset).await;
        assert!(response.header("Content-Type").unwrap().starts_with(media_type));
    }
    let rebound = Request::get("/").header("Host", "rebound.example").send(relay.admin).await;
    assert_eq!(rebound.status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_need_a_session_of_the_own_origin() {
    let (_place, relay) = Place::published().await;
    let admin = relay.admin;
    assert!(text(get(admin, "/rollout").await).contains("Sign in"));
    for origin in ["http://evil.example", "null", ""] {
        let foreign = post_from(origin, "/sign-in", "token=s3cret-of-the-site").send(admin).await;
        assert_eq!(foreign.status, 403, "{origin}");
    }
    assert_eq!(post(admin, "/sign-in", "token=wrong").send(admin).await.status, 401);
    let cookie = sign_in(admin).await;
    let token = form_token(admin, &cookie).await;
    let halt = format!("order=halt&by=anna&reason=test&form_token={token}");
    let send = async |cookie: &str, form: &str| {
        post(admin, "/rollout", form).header("Cookie", cookie).send(admin).await
    };
    assert_eq!(send("gupd_session=0", &halt).await.status, 403, "no session");
    assert_eq!(send(&cookie, "order=halt&by=anna&form_token=0&confirmed=true").await.status, 403, "no token");
    let preview = send(&cookie, &halt).await;
    assert!(text(preview).contains("Do it") && !is_halted(&relay).await, "a preview changes nothing");
    assert_eq!(send(&cookie, &format!("{halt}&confirmed=true")).await.status, 200);
    assert!(is_halted(&relay).await);
    assert!(text(get(admin, "/").await).contains("rollouts are halted"));
    let clients = text(get(admin, "/clients?q=127.0.0.2").await);
    assert!(clients.contains("127.0.0.2") && clients.contains("1 client"), "{clients}");
    assert!(text(get(admin, "/clients.csv").await).starts_with("client,address,group,state"));
    let resume = format!("order=resume&by=anna&form_token={token}&confirmed=true");
    assert_eq!(send(&cookie, &resume).await.status, 200);
    assert!(!is_halted(&relay).await);
    assert_eq!(post(admin, "/sign-out", "").header("Cookie", &cookie).send(admin).await.status, 303);
    assert_eq!(send(&cookie, &halt).await.status, 403, "the session has ended");
    // All of these failures together close the sign-in for a minute.
    for _ in 0..10 {
        post(admin, "/sign-in", "token=wrong").send(admin).await;
    }
    assert_eq!(post(admin, "/sign-in", "token=s3cret-of-the-site").send(admin).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_deferrals_and_content_shows_savings() {
    let (place, relay) = Place::published().await;
    let held = r#"{"order":"hold","group":"default","revision":"1","by":"anna"}"#;
    assert_eq!(order(held).send(relay.admin).await.status, 200);
    let newer = PAYLOAD.replace("261121001", "261121002");
    for path in [PAYLOAD, &newer] {
        place.manager.put(path, Resource::new(bytes(1, 1 << 20)));
    }
    relay.wait_until_stored(PAYLOAD).await;
    for _ in 0..3 {
        assert_eq!(relay.get(PAYLOAD).await.status, 200);
        // A held group gets no newer payloads.
        assert_eq!(relay.get(&newer).await.status, 503);
    }
    let csv = text(get(relay.admin, "/clients.csv").await);
    let client = csv.lines().find(|line| line.starts_with("\"127.0.0.1\"")).unwrap();
    assert!(client.ends_with(",3"), "{csv}");
    assert!(text(get(relay.admin, "/clients").await).contains("Deferred in 24 h"));
    let content = text(get(relay.admin, "/content").await);
    let row = content.split("<tr>").find(|row| row.contains("virus-definitions")).unwrap();
    let cells: Vec<_> = row.split("</td>").map(|cell| cell.rsplit('>').next().unwrap()).collect();
    let mib = |cell: &str| cell.strip_suffix(" MiB").unwrap().parse::<f64>().unwrap();
    let (sent, received) = (mib(cells[0]), mib(cells[1]));
    assert!(received < sent, "{row}");
    assert_eq!(cells[2], format!("{} %", ((sent - received) * 100.0 / sent).floor()), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn browser_shows_every_page_at_three_widths_and_two_themes() {
    let Some(browser) =
        ["/usr/bin/chromium", "/usr/bin/chromium-browser"].into_iter().find(|path| Path::new(path).exists())
    else {
        println!("no Chromium on this machine: the pages are tested without a browser");
        return;
    };
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 3 << 20)));
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    relay.wait_until_stored(PAYLOAD).await;
    let (profile, folder) = (tempfile::tempdir().unwrap(), std::env::var_os("GUPD_SCREENSHOTS"));
    let views = PAGES.iter().flat_map(|page| WIDTHS.map(|width| (page, width)));
    let views = views.flat_map(|(page, width)| THEMES.map(|theme| (page, width, theme)));
    for (number, (page, width, theme)) in views.enumerate() {
        // A browser needs seconds to start: all views are for screenshots, and every seventh has each page, width and
        // theme.
        if folder.is_none() && number % 7 != 0 {
            continue;
        }
        let name = format!("page{}-{width}-{theme}.png", page.replace('/', "-"));
        let file = folder.as_ref().map_or(profile.path(), Path::new).join(name);
        let mut command = Command::new(browser);
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--window-size={width},1000"));
        command.arg(format!("--screenshot={}", file.display()));
        if theme == "dark" {
            command.arg("--blink-settings=preferredColorScheme=0");
        }
        let output = command.arg(format!("http://{}{page}", relay.admin)).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        // The browser's own lines are of other kinds.
        assert!(!errors.contains("CONSOLE"), "{page} {width} {theme}: {errors}");
        assert!(std::fs::metadata(&file).unwrap().len() > 5_000, "{page} {width} {theme}: {errors}");
    }
}

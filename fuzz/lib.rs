//! The fuzz targets: functions that take any bytes and must return. Each decodes what comes from the network or from a
//! file, and asserts what must hold for whatever is accepted. `fuzz_targets/` runs them under libFuzzer; `tests/fuzz.rs`
//! runs them over the corpora, and over changed copies, with a stable compiler.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::LazyLock;

use gupd_config::policy::Policy;
use gupd_config::{Class, Config, Overrides};
use gupd_http::conditional::{self, Precondition};
use gupd_http::range::Ranges;
use gupd_http::target::{OwnAddresses, Target, TargetRules};
use gupd_http::{CacheControl, Freshness, SelectingRequest, VaryFields};
use gupd_http::{date, forwarding, framing, key, storable, update, validator};
use gupd_rollout::command::RolloutCommand;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

/// A target: its name, which is that of its corpus, and its function.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [FuzzTarget; 15] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("range", range),
    ("cache_control", cache_control),
    ("vary", vary),
    ("url", url),
    ("config", config),
    ("bundle", bundle),
    ("catalog", catalog),
    ("digest_field", digest_field),
    ("blob_trailer", blob_trailer),
    ("index_record", index_record),
    ("rollout_command", rollout_command),
    ("proxy_header", proxy_header),
    ("http2_frames", http2_frames),
];

/// 2026-11-21, when the corpora were made.
const NOW: i64 = 1_795_219_200_000;

static CONFIG: LazyLock<Config> =
    LazyLock::new(|| Config::for_upstreams(&["http://manager:8014"]).expect("the URL is valid"));

static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy::new(&CONFIG).expect("the defaults are valid"));

/// Splits bytes into a first line and fields, as lenient as no server is; what no field can have is left out.
fn split_head(data: &[u8]) -> (&[u8], HeaderMap) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let fields = lines.take(100).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value.trim_ascii()).ok()?))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value);
    }
    (first, headers)
}

/// A request head: method and target on the first line, then fields.
pub fn request_head(data: &[u8]) {
    let (first, headers) = split_head(data);
    let mut words = first.split(|byte| *byte == b' ');
    let Ok(method) = Method::from_bytes(words.next().unwrap_or_default()) else { return };
    let Some(Ok(uri)) = words.next().map(Uri::try_from) else { return };
    let local = SocketAddr::from(([127, 0, 0, 1], 2967));
    let rules = TargetRules {
        policy: &POLICY,
        is_upstream: &|_, authority| authority.as_str() == "manager:8014",
        own: OwnAddresses { local, listen: &CONFIG.server.listen, public_names: &[] },
        max_uri_bytes: CONFIG.server.max_uri_bytes,
    };
    let instance = gupd_http::instance::RelayInstance::default();
    for version in [Version::HTTP_10, Version::HTTP_11] {
        if let Ok(target) = Target::parse(&method, &uri, version, &headers, &rules) {
            let class = POLICY.classify(&target.route, &target.normalized.canonical_path());
            assert!(!target.key().is_empty());
            let _ = forwarding::prepare_fill(&headers, version, &class, &instance);
            let _ = forwarding::withholds_fields(&headers, class.class);
        }
    }
    let sent = forwarding::prepare_passthrough(&headers, Version::HTTP_11, local, &instance);
    assert!(!sent.contains_key(header::CONNECTION), "a hop-by-hop field passes");
    let _ = forwarding::is_final_recipient(&method, &uri, &headers);
}

/// A response head: status on the first line, then fields. The fields are also those of the request.
pub fn response_head(data: &[u8]) {
    let (first, mut headers) = split_head(data);
    let Ok(status) = StatusCode::from_bytes(first.get(..3).unwrap_or_default()) else { return };
    let request = headers.clone();
    let _refused = framing::normalize(&mut headers);
    let asked = CacheControl::from_request(&request);
    for class in [Class::Payload, Class::Catalog, Class::Private, Class::Generic] {
        let _ = storable::check_storable(&request, status, &headers, class, &CONFIG.cache);
        let freshness = Freshness::new(status, &headers, NOW, NOW + 5, class, &CONFIG.cache);
        for now in [i64::MIN, 0, NOW, NOW + 1_000_000, i64::MAX] {
            let _ = (
                freshness.age(now),
                freshness.evaluate(now, &asked),
                freshness.is_usable_on_error(now, &asked),
            );
        }
        let mut stored = headers.clone();
        update::remove_unstored(&mut stored, class);
        update::apply_not_modified(&mut stored, request.clone(), class);
    }
    let evaluated = conditional::evaluate(&Method::GET, &request, status, &headers);
    assert!(evaluated == Precondition::Proceed || status.is_success());
    let _ = conditional::is_range_applicable(&request, &headers);
    let _ = validator::strong_validator(&headers);
    let _ = validator::matches_stored(&headers, &request);
    let mut conditions = HeaderMap::new();
    validator::add_validators(&mut conditions, &headers);
    update::add_date(&mut headers, NOW);
    assert!(date::from_headers(&headers, header::DATE).is_some(), "a response without a date");
    forwarding::prepare_response(&mut headers, Version::HTTP_11);
    assert!(!headers.contains_key(header::CONNECTION), "a hop-by-hop field passes");
}

/// A length in eight bytes, then the value of `Range`.
pub fn range(data: &[u8]) {
    let Some((length, value)) = data.split_first_chunk::<8>() else { return };
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let length = u64::from_le_bytes(*length);
    let request = HeaderMap::from_iter([(header::RANGE, value)]);
    let check = |range: &std::ops::Range<u64>| assert!(range.start < range.end && range.end <= length);
    match Ranges::parse(&request, length) {
        Ranges::Single(range) => check(&range),
        Ranges::Multiple(ranges) => ranges.iter().for_each(check),
        Ranges::Whole | Ranges::Unsatisfiable => {}
    }
    let _ = Ranges::prerequisite(&request);
    if let Some(part) = Ranges::first_part(&request) {
        let resolved = part.resolve(length);
        assert!(resolved.start <= resolved.end && resolved.end <= length);
        let _ = (part.to_field(1 << 20), part.is_front(1 << 20));
    }
}

/// The value of `Cache-Control`, on any number of lines.
pub fn cache_control(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for value in
        data.split(|byte| *byte == b'\n').filter_map(|value| HeaderValue::from_bytes(value).ok()).take(20)
    {
        headers.append(header::CACHE_CONTROL, value.clone());
        headers.append(HeaderName::from_static("cdn-cache-control"), value);
    }
    let _ = CacheControl::from_request(&headers);
    let _ = CacheControl::from_response(&headers);
    let _ = CacheControl::for_shared_cache(&headers, &CONFIG.cache.targeted_fields);
}

/// A response head as in [`response_head`], whose fields are also those of the request.
pub fn vary(data: &[u8]) {
    let (first, headers) = split_head(data);
    let Ok(status) = StatusCode::from_bytes(first.get(..3).unwrap_or_default()) else { return };
    let request = SelectingRequest { target: "/object?query", headers: &headers };
    for class in [Class::Payload, Class::Generic] {
        if let Some(fields) = VaryFields::from_response(status, &headers, request, class) {
            assert!(fields.matches(request), "a response is not for its own request");
            assert!(fields.is_sufficient(status, &headers));
            assert_eq!(VaryFields::decode(&fields.encode()).as_ref(), Some(&fields));
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = VaryFields::decode(text);
    }
}

/// A path, with a query if there is a `?`.
pub fn url(data: &[u8]) {
    // Targets in other forms are refused before.
    let Some(text) = std::str::from_utf8(data).ok().filter(|text| text.starts_with('/')) else { return };
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let Ok(once) = key::normalize(path, query) else { return };
    let twice = key::normalize(once.path(), once.query()).expect("a normal form is valid");
    assert_eq!(once.path_and_query(), twice.path_and_query(), "a normal form has another one");
    let stored = once.key("/", None);
    assert_eq!(key::split_key(&stored).target, once.path_and_query());
    if let Some(route) = POLICY.route(None, &once.canonical_path()) {
        let _ = POLICY.classify(route, &once.canonical_path());
    }
    let _ = key::request_target(once.path_and_query());
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("the folder for temporary files is writable");
    file.write_all(data).expect("the file is writable");
    match Config::load(&Overrides::default(), Some(file.path()), std::iter::empty()) {
        Ok(config) => drop(Policy::new(&config)),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

/// A bundle, not compressed.
pub fn bundle(data: &[u8]) {
    gupd_store::fuzzing::read_bundle(data, NOW);
}

/// A catalog: a ZIP archive with lists of hashes.
pub fn catalog(data: &[u8]) {
    gupd_cache::digest::fuzzing::parse_catalog(data);
}

/// A response head as in [`response_head`] with digests of its content.
pub fn digest_field(data: &[u8]) {
    let (first, headers) = split_head(data);
    if let Ok(status) = StatusCode::from_bytes(first.get(..3).unwrap_or_default()) {
        gupd_cache::digest::fuzzing::parse_digests(status, &headers);
    }
}

/// The end of a blob's file.
pub fn blob_trailer(data: &[u8]) {
    gupd_store::fuzzing::decode_blob_file(data);
}

/// The record of an object, the journal of the index, that of a fill.
pub fn index_record(data: &[u8]) {
    gupd_store::fuzzing::decode_records(data);
}

/// The body of a rollout command.
pub fn rollout_command(data: &[u8]) {
    if let Ok(command) = serde_json::from_slice::<RolloutCommand>(data) {
        let written = serde_json::to_vec(&command).expect("a command can be written");
        assert_eq!(serde_json::from_slice::<RolloutCommand>(&written).ok(), Some(command));
    }
}

/// The length of pieces, then a connection that may begin with a PROXY header.
pub fn proxy_header(data: &[u8]) {
    gupd_net::listen::fuzzing::read_proxied_connection(data);
}

/// The length of pieces, then frames of an HTTP/2 client.
pub fn http2_frames(data: &[u8]) {
    gupd_net::listen::fuzzing::meter_http2_frames(data);
}

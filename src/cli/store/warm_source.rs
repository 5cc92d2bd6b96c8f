//! Sources of a warm start: the list of content of another relay, by its admin address, or of the shared tier. A list
//! is in the order of its use: catalogs first, because they prove payloads of peers, then payloads, the latest used
//! ones first.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::CommandError;
use crate::admin_client::{AdminClient, AdminRequest};
use crate::config_file::ConfigFile;
use crate::{new_runtime, tier};
use gupd_admin::ProblemDocument;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_refresh::{ContentItem, ContentList};
use gupd_tier::ListedState;

/// Time for one part of a list.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum bytes of one part: 512 long paths.
const MAX_PART: usize = 32 << 20;

/// Maximum number of objects, more than a store of 40 GiB has.
const MAX_OBJECTS: usize = 1_000_000;

/// Returns the objects that clients of another relay received within a time.
pub(super) fn list_relay(
    source: &AdminClient,
    url: &str,
    since: Duration,
) -> Result<Vec<ContentItem>, CommandError> {
    let failed = |text: String| CommandError::Failed(format!("--from {url}: {text}"));
    let (mut items, mut after) = (Vec::new(), Some(0_i64));
    while let Some(row) = after {
        let path = format!("/api/v1/store/content?after={row}");
        let request =
            AdminRequest { method: Method::GET, path: &path, body: Bytes::new(), max_response: MAX_PART };
        let (status, body) = source.try_send(request, TIMEOUT).map_err(|error| {
            failed(format!("{error}: start that relay, and let this machine reach its server.admin"))
        })?;
        let problem = serde_json::from_slice::<ProblemDocument>(&body).map(|problem| problem.detail);
        let list = match (status, problem) {
            (StatusCode::OK, _) => serde_json::from_slice::<ContentList>(&body).ok(),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Ok(detail)) => {
                return Err(failed(format!("refused: {detail}: pass --from-token-file")));
            }
            (StatusCode::NOT_FOUND, _) | (_, Err(_)) => None,
            (_, Ok(detail)) => return Err(failed(format!("refused: {detail}"))),
        };
        let Some(list) = list else {
            return Err(failed(format!(
                "answer {status}: this is no admin address of a gupd that lists its content: use its server.admin, by \
                 default port 9467"
            )));
        };
        // A list that does not advance would never end.
        after = list.next.filter(|next| *next > row && items.len() < MAX_OBJECTS);
        items.extend(list.objects);
    }
    Ok(select(items, since))
}

/// Returns the objects that were published in the tier within a time.
pub(super) fn list_tier(
    file: &ConfigFile,
    url: &str,
    since: Duration,
) -> Result<Vec<ContentItem>, CommandError> {
    if !url.contains("://") {
        return Err(CommandError::Configuration(format!(
            "--from {url}: not a URL: use the admin address of a relay such as http://192.0.2.11:9467, or tier.url"
        )));
    }
    let (_, tier) = tier::open(file)?;
    let own = &tier.settings().url;
    if url.trim_end_matches('/') != own.trim_end_matches('/') {
        return Err(CommandError::Configuration(format!(
            "--from {url}: the tier of this relay is {own}: pass that, or change tier.url"
        )));
    }
    let objects = new_runtime()?.block_on(tier.list()).map_err(|error| tier::failed(own, &error))?;
    let items = objects.into_iter().filter_map(|object| match object.state {
        ListedState::Usable(record) => Some(ContentItem {
            key: record.key.clone(),
            path: None,
            bytes: record.length,
            last_used: object.published,
            catalog: false,
        }),
        ListedState::Later | ListedState::Damaged => None,
    });
    Ok(select(items.collect(), since))
}

/// Selects the objects of the last time, and puts them in order.
fn select(mut items: Vec<ContentItem>, since: Duration) -> Vec<ContentItem> {
    let age = UnixMillis::try_from(since.as_millis()).unwrap_or(UnixMillis::MAX);
    let oldest = Clock::system().now().saturating_sub(age);
    items.retain(|item| item.last_used >= oldest);
    items.sort_by_key(|item| (!item.catalog, Reverse(item.last_used)));
    // Variants of one key are one object here.
    let mut known = HashSet::new();
    items.retain(|item| known.insert(item.key.clone()));
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_objects_are_listed_once_catalogs_first() {
        let now = Clock::system().now();
        let item = |key: &str, minutes: i64, catalog| ContentItem {
            key: key.to_owned(),
            path: None,
            bytes: 1,
            last_used: now - minutes * 60_000,
            catalog,
        };
        let items = vec![
            item("/ /a/full.zip", 50, false),
            item("/ /b/full.zip", 5, false),
            item("/ /b/full.zip", 6, false),
            item("/ /old/full.zip", 90, false),
            item("/ /minitri.flg", 40, true),
        ];
        let listed = select(items, Duration::from_secs(3_600));
        let keys: Vec<&str> = listed.iter().map(|item| &*item.key).collect();
        assert_eq!(keys, ["/ /minitri.flg", "/ /b/full.zip", "/ /a/full.zip"]);
    }
}

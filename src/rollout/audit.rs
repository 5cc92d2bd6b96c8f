//! What was ordered and by whom, one JSON object a line, in `audit.log` of the store's folder. Owns the file: lines are
//! added, each by one write that is synced, and nothing is ever rewritten. The file is opened for each line, so whoever
//! moves it away has a new one begin. What cannot be written down is not done, see the callers.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::advance::Advanced;
use super::orders::Order;
use super::rings::Rings;
use super::status::At;
use gupd_config::clock::UnixMillis;

/// The file's name in the store's folder.
const FILE: &str = "audit.log";

/// Who may read it beside the relay's own user: its group, since it names people and addresses.
const MODE: u32 = 0o640;

/// Who opens rings by itself.
const RELAY: &str = "gupd";

/// The file.
#[derive(Clone, Debug)]
pub struct Audit {
    path: Arc<Path>,
    // Held over a write, on a blocking thread: who finds half a line must not find one that is on its way.
    one_at_a_time: Arc<Mutex<()>>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    at: At,
    who: String,
    from: Option<String>,
    order: String,
    what: Value,
    reason: Option<String>,
    outcome: Outcome,
}

/// What came of an order, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is done next. What keeps that from happening is a line of its own.
    Done(String),
    /// It is against the rules.
    Refused(String),
    /// It was to be done, and could not be written down in the store.
    Failed(String),
}

/// A line that is not in the file for certain.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit log {path} cannot be written, and without it nothing is ordered: {source}; see that it is a file that gupd \
     may write, and that there is room"
)]
pub struct Unwritten {
    path: String,
    source: io::Error,
}

impl Entry {
    /// An order, by whom and from which address, why, and what comes of it.
    pub fn ordered(
        at: UnixMillis,
        order: &Order,
        (who, from): (&str, &str),
        reason: Option<&str>,
        outcome: Outcome,
    ) -> Self {
        let (order, what) = parts(order);
        Self {
            at: At(at),
            who: who.to_owned(),
            from: Some(from.to_owned()),
            order,
            what,
            reason: reason.map(str::to_owned),
            outcome,
        }
    }

    /// A step that the relay opens by itself.
    pub fn opened(at: UnixMillis, rings: &Rings, opened: Advanced) -> Self {
        let ring = rings.get(opened.ring);
        let (name, steps) = ring.map_or(("", 1), |ring| (ring.settings.name.as_str(), ring.steps()));
        let Advanced { revision, step, .. } = opened;
        let done = format!("ring {name}, step {} of {steps}, is open for revision {revision}", step + 1);
        Self {
            at: At(at),
            who: RELAY.to_owned(),
            from: None,
            order: "open".to_owned(),
            what: serde_json::json!({ "revision": revision, "ring": name, "step": step + 1 }),
            reason: None,
            outcome: Outcome::Done(done),
        }
    }
}

/// The order's name, and what it says besides.
fn parts(order: &Order) -> (String, Value) {
    let mut all = serde_json::to_value(order).unwrap_or_default();
    let name = all.as_object_mut().and_then(|all| all.remove("order"));
    (name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(), all)
}

impl Audit {
    /// That of a store.
    pub fn of_store(folder: &Path) -> Self {
        Self { path: folder.join(FILE).into(), one_at_a_time: Arc::default() }
    }

    /// Adds lines, and returns when they are on the disk.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn write(&self, entries: Vec<Entry>) -> Result<(), Unwritten> {
        let audit = self.clone();
        let written = spawn_blocking(move || audit.append(&entries)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|source| Unwritten { path: self.path.display().to_string(), source })
    }

    fn append(&self, entries: &[Entry]) -> io::Result<()> {
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = match fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => return Err(io::Error::other("it is not a file")),
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        let mut file = File::options().read(true).append(true).create(true).mode(MODE).open(&self.path)?;
        let mut lines = Vec::new();
        if ends_within_a_line(&mut file)? {
            // Of a write that a full disk or a crash cut off.
            lines.push(b'\n');
        }
        for entry in entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_data()?;
        if is_new && let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(who: &str) -> Entry {
        let order = Order::Hold { group: "pilot".to_owned(), revision: "7".to_owned() };
        let outcome = Outcome::Done("group pilot sees revision 7".to_owned());
        Entry::ordered(1_780_000_000_000, &order, (who, "192.0.2.1"), Some("a \"bad\"\nday"), outcome)
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn each_order_is_a_line_that_says_who_when_whence_what_why_and_what_came_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::of_store(folder.path());
        audit.write(vec![entry("anna")]).await.unwrap();
        let text = fs::read_to_string(audit.path()).unwrap();
        let expected = r#"{"at":"2026-05-28T20:26:40Z","who":"anna","from":"192.0.2.1","order":"hold","what":{"group":"pilot","revision":"7"},"reason":"a \"bad\"\nday","outcome":{"done":"group pilot sees revision 7"}}"#;
        assert_eq!(text, format!("{expected}\n"));
        assert_eq!(fs::metadata(audit.path()).unwrap().permissions().mode() & 0o137, 0);
    }

    #[tokio::test]
    async fn lines_are_added_and_a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::of_store(folder.path());
        audit.write(vec![entry("anna")]).await.unwrap();
        Audit::of_store(folder.path()).write(vec![entry("ben"), entry("cleo")]).await.unwrap();
        let who: Vec<Value> = lines(&audit.path()).iter().map(|line| line["who"].clone()).collect();
        assert_eq!(who, ["anna", "ben", "cleo"]);
        let moved = folder.path().join("audit.log.1");
        fs::rename(audit.path(), &moved).unwrap();
        audit.write(vec![entry("dora")]).await.unwrap();
        assert_eq!((lines(&moved).len(), lines(&audit.path()).len()), (3, 1));
    }

    #[tokio::test]
    async fn half_a_line_of_a_crash_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::of_store(folder.path());
        fs::write(audit.path(), "{\"at\":\"2026").unwrap();
        audit.write(vec![entry("anna")]).await.unwrap();
        let text = fs::read_to_string(audit.path()).unwrap();
        let (half, whole) = text.split_once('\n').unwrap();
        assert_eq!(half, "{\"at\":\"2026");
        assert_eq!(serde_json::from_str::<Value>(whole).unwrap()["who"], "anna");
    }

    #[tokio::test]
    async fn what_is_no_file_is_not_written_and_said_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::of_store(folder.path());
        fs::create_dir(audit.path()).unwrap();
        let error = audit.write(vec![entry("anna")]).await.unwrap_err().to_string();
        assert!(error.contains("audit.log cannot be written") && !error.contains('\n'), "{error}");
        let nowhere = Audit::of_store(&folder.path().join("none"));
        assert!(nowhere.write(vec![entry("anna")]).await.is_err());
    }
}

//! The audit log: one JSON object a line for every rollout command, every purge and every step that opened by itself, in `audit.log` of the
//! store's folder. Lines are appended, each by one synced write, and never rewritten. The file is opened for each
//! write, so that moving it away starts a new one. A command that cannot be logged is not executed, see `engine`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::command::AttributedCommand;
use super::progress::StepId;
use super::rings::Rings;
use super::status::UtcTime;
use gupd_config::clock::UnixMillis;

/// Name of the file in the store's folder.
const FILE: &str = "audit.log";

/// Mode of the file: readable for its group, and not for others, since it names people and addresses.
const MODE: u32 = 0o640;

/// Author of steps that open by themselves.
const RELAY: &str = "gupd";

/// The file.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: Arc<Path>,
    // Held over a write, on a blocking thread: half a line must be of a crash, and not of a write under way.
    write_lock: Arc<Mutex<()>>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    at: UtcTime,
    #[serde(rename = "who")]
    by: String,
    from: Option<String>,
    #[serde(rename = "order")]
    command: String,
    #[serde(rename = "what")]
    arguments: Value,
    reason: Option<String>,
    outcome: AuditOutcome,
}

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It is executed next. A failure is a line of its own.
    Done(String),
    /// It was refused.
    Refused(String),
    /// Its effect could not be stored.
    Failed(String),
}

/// A line may not have reached the disk.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit log {path} cannot be written, and without it nothing is executed: {source}: see that gupd may write the \
     file, and that there is room"
)]
pub struct AuditError {
    path: String,
    source: io::Error,
}

impl AuditEntry {
    /// A line for a command.
    pub fn for_command<C: Serialize>(
        at: UnixMillis,
        command: &AttributedCommand<C>,
        outcome: AuditOutcome,
    ) -> Self {
        let (name, arguments) = split_command(&command.command);
        Self {
            at: UtcTime(at),
            by: command.by.clone(),
            from: Some(command.from.clone()),
            command: name,
            arguments,
            reason: command.reason.clone(),
            outcome,
        }
    }

    /// A line for a step that opened by itself.
    pub fn for_step(at: UnixMillis, rings: &Rings, opened: StepId) -> Self {
        let ring = rings.get(opened.ring);
        let (name, steps) = ring.map_or(("", 1), |ring| (ring.settings.name.as_str(), ring.step_count()));
        let StepId { revision, step, .. } = opened;
        let done = format!("ring {name}, step {} of {steps}, is open for revision {revision}", step + 1);
        Self {
            at: UtcTime(at),
            by: RELAY.to_owned(),
            from: None,
            command: "open".to_owned(),
            arguments: serde_json::json!({ "revision": revision, "ring": name, "step": step + 1 }),
            reason: None,
            outcome: AuditOutcome::Done(done),
        }
    }
}

/// Returns the command's name and its arguments.
fn split_command(command: &impl Serialize) -> (String, Value) {
    let mut all = serde_json::to_value(command).unwrap_or_default();
    let name = all.as_object_mut().and_then(|all| all.remove("order"));
    (name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(), all)
}

impl AuditLog {
    /// The audit log in the folder of a store.
    pub fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join(FILE).into(), write_lock: Arc::default() }
    }

    /// Appends lines, and returns when they are on the disk.
    ///
    /// # Errors
    /// When they may not be.
    pub async fn write(&self, entries: Vec<AuditEntry>) -> Result<(), AuditError> {
        let log = self.clone();
        let written = spawn_blocking(move || log.append(&entries)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|source| AuditError { path: self.path.display().to_string(), source })
    }

    fn append(&self, entries: &[AuditEntry]) -> io::Result<()> {
        let _lock = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = match fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => return Err(io::Error::other("it is not a file")),
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        let mut file = File::options().read(true).append(true).create(true).mode(MODE).open(&self.path)?;
        let mut lines = Vec::new();
        if ends_within_a_line(&mut file)? {
            // A full disk or a crash cut a write off.
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

    /// Path of the file.
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
    use crate::command::RolloutCommand;

    fn entry(by: &str) -> AuditEntry {
        let command = RolloutCommand::Hold { group: "pilot".to_owned(), revision: "7".to_owned() };
        let outcome = AuditOutcome::Done("group pilot sees revision 7".to_owned());
        AuditEntry::for_command(
            1_780_000_000_000,
            &AttributedCommand {
                command,
                by: by.to_owned(),
                from: "192.0.2.1".to_owned(),
                reason: Some("a \"bad\"\nday".to_owned()),
            },
            outcome,
        )
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn command_is_one_line_with_author_address_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::in_folder(folder.path());
        audit.write(vec![entry("anna")]).await.unwrap();
        let text = fs::read_to_string(audit.path()).unwrap();
        let expected = r#"{"at":"2026-05-28T20:26:40Z","who":"anna","from":"192.0.2.1","order":"hold","what":{"group":"pilot","revision":"7"},"reason":"a \"bad\"\nday","outcome":{"done":"group pilot sees revision 7"}}"#;
        assert_eq!(text, format!("{expected}\n"));
        assert_eq!(fs::metadata(audit.path()).unwrap().permissions().mode() & 0o137, 0);
    }

    #[tokio::test]
    async fn moved_file_is_replaced_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::in_folder(folder.path());
        audit.write(vec![entry("anna")]).await.unwrap();
        AuditLog::in_folder(folder.path()).write(vec![entry("ben"), entry("cleo")]).await.unwrap();
        let authors: Vec<Value> = lines(&audit.path()).iter().map(|line| line["who"].clone()).collect();
        assert_eq!(authors, ["anna", "ben", "cleo"]);
        let moved = folder.path().join("audit.log.1");
        fs::rename(audit.path(), &moved).unwrap();
        audit.write(vec![entry("dora")]).await.unwrap();
        assert_eq!((lines(&moved).len(), lines(&audit.path()).len()), (3, 1));
    }

    #[tokio::test]
    async fn half_line_of_a_crash_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::in_folder(folder.path());
        fs::write(audit.path(), "{\"at\":\"2026").unwrap();
        audit.write(vec![entry("anna")]).await.unwrap();
        let text = fs::read_to_string(audit.path()).unwrap();
        let (half, whole) = text.split_once('\n').unwrap();
        assert_eq!(half, "{\"at\":\"2026");
        assert_eq!(serde_json::from_str::<Value>(whole).unwrap()["who"], "anna");
    }

    #[tokio::test]
    async fn missing_file_is_one_line_of_error() {
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::in_folder(folder.path());
        fs::create_dir(audit.path()).unwrap();
        let error = audit.write(vec![entry("anna")]).await.unwrap_err().to_string();
        assert!(error.contains("audit.log cannot be written") && !error.contains('\n'), "{error}");
        let nowhere = AuditLog::in_folder(&folder.path().join("none"));
        assert!(nowhere.write(vec![entry("anna")]).await.is_err());
    }
}

//! The JSON format of a log line: one object with time, level, target and the fields of the event in their order.
//!
//! The feature `json` of `tracing-subscriber` writes the same fields, but takes 2.0 µs for an access line where this
//! format takes 0.7 µs. The difference is 7 % of a hit of 1 KiB (19 µs), so the format is written here.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Beginning of every line.
const BEGINNING: &str = "{\"timestamp\":\"";

/// Column of the timestamp.
pub(super) const COLUMN: usize = BEGINNING.len();

/// The format, with times of `T`.
pub(super) struct JsonFormat<T>(T);

impl<T> JsonFormat<T> {
    pub(super) fn new(timer: T) -> Self {
        Self(timer)
    }
}

impl<S, N, T> FormatEvent<S, N> for JsonFormat<T>
where
    T: FormatTime,
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        line.write_str(BEGINNING)?;
        self.0.format_time(&mut line)?;
        line.write_str("\",\"level\":\"")?;
        line.write_str(metadata.level().as_str())?;
        line.write_str("\",\"target\":\"")?;
        line.write_str(metadata.target())?;
        line.write_char('"')?;
        let mut fields = FieldWriter { line: &mut line, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        line.write_str("}\n")
    }
}

struct FieldWriter<'a, 'w> {
    line: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl FieldWriter<'_, '_> {
    fn write_field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            // Field names are identifiers of this program and need no escaping.
            self.result = self
                .line
                .write_str(",\"")
                .and_then(|()| self.line.write_str(field.name()))
                .and_then(|()| self.line.write_str("\":"))
                .and_then(|()| value(self.line));
        }
    }
}

impl Visit for FieldWriter<'_, '_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write_field(field, |line| write!(line, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write_field(field, |line| write!(line, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write_field(field, |line| write!(line, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write_field(field, |line| {
            line.write_char('"')?;
            Escaped(line).write_str(value)?;
            line.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write_field(field, |line| {
            line.write_char('"')?;
            write!(Escaped(line), "{value:?}")?;
            line.write_char('"')
        });
    }
}

/// Writes the inside of a JSON string (RFC 8259 §7).
struct Escaped<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut unescaped = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= b' ' && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.0.write_str(&text[unescaped..at])?;
            match byte {
                b'"' => self.0.write_str("\\\"")?,
                b'\\' => self.0.write_str("\\\\")?,
                b'\n' => self.0.write_str("\\n")?,
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
            unescaped = at + 1;
        }
        self.0.write_str(&text[unescaped..])
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::time::SystemTime;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

    impl io::Write for CapturedOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_is_one_json_object_for_any_client_input() {
        let output = CapturedOutput::default();
        let writer = output.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(JsonFormat::new(SystemTime))
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let path = "/a\"b\\c\n\u{1}é";
            tracing::info!(path, shown = %path, status = 200_u16, delta = -3, object = None::<u8>, "done");
        });
        let line = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/a\"b\\c\n\u{1}é");
        assert_eq!(value["shown"], "/a\"b\\c\n\u{1}é");
        assert_eq!((&value["status"], &value["delta"]), (&200.into(), &(-3).into()));
        assert_eq!((&value["message"], &value["level"]), (&"done".into(), &"INFO".into()));
    }
}

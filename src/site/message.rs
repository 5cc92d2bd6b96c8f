//! HTTP/1.1 messages as they are on the wire, for both ends (RFC 9112): heads, fields and chunks. Nothing is
//! normalised.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Names and values in the order of the message.
pub(crate) type Fields = Vec<(String, String)>;

/// Reads the first line and the fields of a message; `None` if the connection ended before it.
pub(crate) async fn read_head<R>(reader: &mut R) -> io::Result<Option<(String, Fields)>>
where
    R: AsyncBufRead + Unpin,
{
    let mut first = String::new();
    if reader.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut fields = Fields::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some((first, fields))) };
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Returns the value of the first field with this name, in any case.
pub(crate) fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Writes fields as lines of a head.
pub(crate) fn lines(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// Appends the data of all chunks to `body` (RFC 9112 §7.1).
pub(crate) async fn read_chunks<R>(reader: &mut R, body: &mut Vec<u8>) -> io::Result<()>
where
    R: AsyncBufRead + Unpin,
{
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).await?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).await?;
        if size == 0 {
            return Ok(());
        }
        chunk.truncate(size);
        body.append(&mut chunk);
    }
}

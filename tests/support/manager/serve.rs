//! One connection to the manager: reads requests, answers as the resource says, faults included.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::resource::{Framing, Resource};
use super::{Seen, Shared};

/// Bytes written at once: small enough that a stall or a cut may fall anywhere.
const PIECE: usize = 16 << 10;

pub(super) fn connection(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    while let Some(seen) = read_request(&mut reader, &mut writer)? {
        let path = seen.target.split('?').next().unwrap_or_default().to_owned();
        let resource = shared.resources.lock().unwrap().get(&super::file(&path)).cloned();
        shared.seen.lock().unwrap().push(seen.clone());
        shared.arrived.notify_all();
        let resource =
            resource.unwrap_or_else(|| Resource::new("nothing here\n").without("ETag").status(404));
        if !answer(&mut writer, &seen, &resource, shared)? {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen { method, target, headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if seen.header("expect").is_some() {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(length) = seen.header("content-length") {
        seen.body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut seen.body)?;
    } else if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            seen.body.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(Some(seen))
}

/// Whether the connection may be used again.
fn answer(writer: &mut TcpStream, seen: &Seen, resource: &Resource, shared: &Shared) -> io::Result<bool> {
    if let Some(gate) = &resource.hold {
        gate.pass();
    }
    std::thread::sleep(resource.delay);
    if let Some(raw) = &resource.raw {
        writer.write_all(raw)?;
        return Ok(false);
    }
    let whole = if resource.echo { seen.body.clone() } else { resource.body.to_vec() };
    let mut status = resource.status;
    let mut part = 0..whole.len();
    let mut head = String::new();
    if status == 200 && is_current(seen, resource) {
        status = 304;
        part = 0..0;
    } else if let (200, true, Some(wanted)) = (status, resource.ranges, wanted_range(seen, resource)) {
        match wanted {
            Ok(range) => {
                status = 206;
                head +=
                    &format!("Content-Range: bytes {}-{}/{}\r\n", range.start, range.end - 1, whole.len());
                part = range;
            }
            Err(()) => {
                status = 416;
                head += &format!("Content-Range: bytes */{}\r\n", whole.len());
                part = 0..0;
            }
        }
    }
    for (name, value) in &resource.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if resource.dated && !resource.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("date")) {
        head += &format!("Date: {}\r\n", shared.date());
    }
    head += &match (status, resource.framing) {
        (304, _) => String::new(),
        (_, Framing::Length) => format!("Content-Length: {}\r\n", part.len()),
        (_, Framing::Declared(length)) => format!("Content-Length: {length}\r\n"),
        (_, Framing::Chunked) => "Transfer-Encoding: chunked\r\n".to_owned(),
        (_, Framing::UntilClose) => "Connection: close\r\n".to_owned(),
    };
    write!(writer, "HTTP/1.1 {status} Status\r\n{head}\r\n")?;
    if seen.method == "HEAD" || status == 304 {
        return Ok(true);
    }
    write_body(writer, &whole, part, resource, shared)
}

fn write_body(
    writer: &mut TcpStream,
    whole: &[u8],
    part: Range<usize>,
    resource: &Resource,
    shared: &Shared,
) -> io::Result<bool> {
    let cut = resource.cut.as_ref().and_then(|cut| {
        let mut left = cut.left.lock().unwrap();
        let cuts = *left > 0 && part.len() > cut.after;
        *left -= usize::from(cuts);
        cuts.then_some(part.start + cut.after)
    });
    let mut at = part.start;
    while at < part.end {
        let mut end = part.end.min(at + PIECE);
        if let Some((after, gate)) = &resource.stall {
            if at >= *after {
                gate.pass();
            } else {
                end = end.min(*after);
            }
        }
        if let Some(cut) = cut {
            if at == cut {
                return Ok(false);
            }
            end = end.min(cut);
        }
        if let Some(rate) = resource.rate {
            std::thread::sleep(Duration::from_nanos((end - at) as u64 * 1_000_000_000 / rate));
        }
        let piece = &whole[at..end];
        // Counted first: a client that has them may look at the count.
        shared.body_bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
        let written = if resource.framing == Framing::Chunked {
            write!(writer, "{:x}\r\n", piece.len())
                .and_then(|()| writer.write_all(piece))
                .and_then(|()| writer.write_all(b"\r\n"))
        } else {
            writer.write_all(piece)
        };
        if let Err(error) = written {
            shared.body_bytes.fetch_sub(piece.len() as u64, Ordering::SeqCst);
            return Err(error);
        }
        at = end;
    }
    if resource.framing == Framing::Chunked {
        writer.write_all(b"0\r\n\r\n")?;
    }
    // A body that is not as long as was declared has said all it will say.
    Ok(matches!(resource.framing, Framing::Length | Framing::Chunked))
}

fn field<'a>(resource: &'a Resource, name: &str) -> Option<&'a str> {
    resource
        .headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn is_current(seen: &Seen, resource: &Resource) -> bool {
    match seen.header("if-none-match") {
        Some(tags) => {
            field(resource, "etag").is_some_and(|etag| tags.split(',').any(|tag| tag.trim() == etag))
        }
        None => {
            let modified = field(resource, "last-modified");
            modified.is_some() && seen.header("if-modified-since") == modified
        }
    }
}

/// `Some(Err)` for a range that cannot be satisfied.
fn wanted_range(seen: &Seen, resource: &Resource) -> Option<Result<Range<usize>, ()>> {
    let length = resource.body.len();
    if let Some(validator) = seen.header("if-range")
        && field(resource, "etag") != Some(validator)
        && field(resource, "last-modified") != Some(validator)
    {
        return None;
    }
    let (first, last) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some(match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), _) if first >= length => Err(()),
        (Ok(first), Ok(last)) => Ok(first..length.min(last + 1)),
        (Ok(first), Err(_)) => Ok(first..length),
        (Err(_), Ok(suffix)) => Ok(length.saturating_sub(suffix)..length),
        (Err(_), Err(_)) => return None,
    })
}

//! A line that passes everything on, until a test has it break, or turn one bit over: what checksums of packets let
//! through once in many terabytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    /// Which byte of the next response's content to damage.
    flip: Mutex<Option<usize>>,
    flipped: AtomicUsize,
    /// At which byte of the next response's content to break.
    cut: Mutex<Option<usize>>,
    ended: AtomicBool,
}

impl Wire {
    pub fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (flipped, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Shared { to, flip: Mutex::default(), flipped, cut: Mutex::default(), ended };
        let shared = Arc::new(shared);
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || drop(connection(&stream.unwrap(), &shared)));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Damages this byte of the content of the next response that has it.
    pub fn flip(&self, at: usize) {
        *self.shared.flip.lock().unwrap() = Some(at);
    }

    /// Breaks before this byte of the content of the next response that has it, and for good.
    pub fn cut(&self, at: usize) {
        *self.shared.cut.lock().unwrap() = Some(at);
    }

    /// How many bits it has turned over.
    pub fn flipped(&self) -> usize {
        self.shared.flipped.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect(self.address);
    }
}

fn connection(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect(shared.to)?;
    let (mut requests, mut upward) = (client.try_clone()?, server.try_clone()?);
    let asking = std::thread::spawn(move || {
        let _broken = io::copy(&mut requests, &mut upward);
        let _gone = upward.shutdown(Shutdown::Write);
    });
    let answered = answers(&server, client, shared);
    let _gone = client.shutdown(Shutdown::Both);
    let _gone = server.shutdown(Shutdown::Both);
    asking.join().unwrap();
    answered
}

/// Passes responses on. Content begins behind an empty line; random bytes have none.
fn answers(mut server: &TcpStream, mut client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut last = [0; 4];
    let mut content = None;
    loop {
        let read = server.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        let piece = &mut buffer[..read];
        let mut cut = None;
        for (index, byte) in piece.iter_mut().enumerate() {
            if let Some(at) = &mut content {
                if shared.cut.lock().unwrap().take_if(|cut| cut == at).is_some() {
                    cut = Some(index);
                    break;
                }
                let mut flip = shared.flip.lock().unwrap();
                if *flip == Some(*at) {
                    *byte ^= 1;
                    *flip = None;
                    shared.flipped.fetch_add(1, Ordering::SeqCst);
                }
                *at += 1;
            }
            last = [last[1], last[2], last[3], *byte];
            if last == *b"\r\n\r\n" {
                content = Some(0);
            }
        }
        client.write_all(&piece[..cut.unwrap_or(read)])?;
        if cut.is_some() {
            shared.ended.store(true, Ordering::SeqCst);
            return Ok(());
        }
    }
}

//! A network in memory: machines by name, and the lines between them and the relay. Each connection has its own speed,
//! and some break.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gupd_net::upstream::{Connecting, Duplex, Network};
use gupd_site::{Line, Link, LinkSwitch, OriginServer, Random, Reachability};
use http::Uri;
use tokio::io::duplex;
use tokio::time::sleep;

/// Bytes that a connection carries in its delay.
const PIECE: usize = 8 << 10;

/// One in `often` connections breaks, within its first `bytes`; each piece of a connection takes up to `delay`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) often: u64,
    pub(crate) bytes: u64,
    pub(crate) delay: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<NetState>);

#[derive(Debug)]
struct NetState {
    machines: Mutex<HashMap<String, (LinkSwitch, OriginServer)>>,
    random: Mutex<Random>,
    weather: Weather,
    open: AtomicUsize,
    made: AtomicUsize,
}

impl Net {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(NetState {
            machines: Mutex::default(),
            random: Mutex::new(Random::new(seed)),
            weather,
            open: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
        }))
    }

    /// A network without breaks, with a millisecond a piece at most.
    pub(crate) fn calm() -> Self {
        Self::new(1, Weather { often: 0, bytes: 0, delay: Duration::from_millis(1) })
    }

    /// Resolves `name` to this origin from now on. Open connections stay with their origin.
    pub(crate) fn put(&self, name: &str, origin: &OriginServer) {
        self.0.machines.lock().unwrap().entry(name.to_owned()).or_default().1 = origin.clone();
    }

    pub(crate) fn set(&self, name: &str, state: Reachability) {
        self.0.machines.lock().unwrap()[name].0.set(state);
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// Number of connections so far.
    pub(crate) fn made(&self) -> usize {
        self.0.made.load(Ordering::SeqCst)
    }

    /// Draws the lifetime of a connection in bytes, and the time of a piece on it.
    fn draw_lifetime(&self) -> (u64, Duration) {
        let Weather { often, bytes, delay } = self.0.weather;
        let mut random = self.0.random.lock().unwrap();
        let life = if often > 0 && random.below(often) == 0 { random.below(bytes) } else { u64::MAX };
        let most = u64::try_from(delay.as_micros()).unwrap();
        (life, Duration::from_micros(random.below(most + 1)))
    }
}

impl Network for Net {
    fn connect(&self, to: Uri) -> Connecting {
        let (switch, origin) = self.0.machines.lock().unwrap()[to.host().unwrap()].clone();
        let net = self.clone();
        Box::pin(async move {
            let (life, delay) = net.draw_lifetime();
            sleep(delay).await;
            if switch.wait_while_silent().await == Reachability::Refusing {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let ((client, near), (far, server)) = (duplex(PIECE), duplex(PIECE));
            net.0.made.fetch_add(1, Ordering::SeqCst);
            net.0.open.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let link = Link::new(line(delay), switch);
                let _ended = link.carry(near, far, life).await;
                net.0.open.fetch_sub(1, Ordering::SeqCst);
            });
            tokio::spawn(async move { origin.serve(server).await });
            Ok(Box::new(client) as Box<dyn Duplex>)
        })
    }
}

/// A line that carries one piece in each `delay`.
fn line(delay: Duration) -> Line {
    let seconds = delay.as_secs_f64().max(1e-6);
    Line { bits_per_second: (PIECE as f64 * 8.0 / seconds) as u64, one_way: delay, buffer: PIECE }
}

//! A listening socket on loopback with its own thread. It works with any runtime, and while the test's own thread is
//! blocked. Dropping it closes the port and breaks all connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::{LinkSwitch, or_panic};

/// Pause after a failed accept: more descriptors exist only when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Any free port of loopback.
    pub const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// Listens on a free port and runs `connection` for each stream while `switch` lets it.
    pub fn start<F, C>(switch: LinkSwitch, connection: F) -> io::Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::start_at(Self::ANY_PORT, switch, connection)
    }

    /// Listens on `address`.
    pub fn start_at<F, C>(address: SocketAddr, switch: LinkSwitch, connection: F) -> io::Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = io::Result<()>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("site".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, switch, connection) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { address, end: Some(end), thread: Some(thread) })
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept<F, C>(listener: std::net::TcpListener, switch: LinkSwitch, connection: F)
where
    F: Fn(TcpStream) -> C,
    C: Future<Output = io::Result<()>> + Send + 'static,
{
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (switch, connection) = (switch.clone(), connection(stream));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = switch.wait_until_refusing() => {}
                // A client may go away at any moment.
                _ = connection => {}
            }
        });
    }
}

/// A machine that is down: a bound port of loopback without a listener, which no other test is given meanwhile.
#[derive(Debug)]
pub struct RefusingPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl RefusingPort {
    /// Takes a free port.
    #[expect(clippy::new_without_default, reason = "no port is the same as another")]
    pub fn new() -> Self {
        let socket = or_panic(TcpSocket::new_v4());
        or_panic(socket.bind((Ipv4Addr::LOCALHOST, 0).into()));
        Self { address: or_panic(socket.local_addr()), socket }
    }

    /// The address that refuses.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Listens on the port: the machine is up again.
    pub fn listen(self) -> TcpListener {
        or_panic(self.socket.listen(1024))
    }
}

//! The server: its listener, its threads, and the connections that are let in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::connection::{Peer, Shared, serve, time_limit};
use crate::lock::Lock;

/// How long nothing is accepted after that has failed: without file descriptors, say.
const PAUSE: Duration = Duration::from_millis(50);

/// What TLS begins with: the type of a record that holds a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;

/// What accepts connections.
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Return what accepts its connections until the server stops. To be called within a runtime.
    fn accept_all(self, door: Arc<Door>) -> std::io::Result<impl Future<Output = ()> + Send> {
        let listener = match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Accepting::Tcp(TcpListener::from_std(listener)?)
            }
            Self::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Accepting::Unix(UnixListener::from_std(listener)?)
            }
        };
        Ok(async move {
            let mut stop = door.shared.stop.subscribe();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept(&door) => accepted,
                    _ = stop.changed() => return,
                };
                if accepted.is_err() {
                    sleep(PAUSE).await;
                }
            }
        })
    }
}

/// A listener of the runtime.
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    /// Accept a connection, and begin to serve it if there is room.
    async fn accept(&self, door: &Arc<Door>) -> std::io::Result<()> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                if let Some(entry) = door.enter(Some(address.ip())) {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(async move {
                        if entry.expects(&stream).await {
                            entry.serve(stream, name_of(address)).await;
                        }
                    });
                }
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Some(entry) = door.enter(None) {
                    tokio::spawn(entry.serve(stream, "unix:".to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// A server that runs.
pub struct Running {
    shared: Arc<Shared>,
    door: Arc<Door>,
    runtime: Runtime,
}

/// Who is let in.
struct Door {
    shared: Arc<Shared>,
    tls: Lock<Option<Arc<ServerConfig>>>,
    peers: Lock<HashMap<IpAddr, usize>>,
}

impl Running {
    /// Listen, with so many threads.
    pub fn start(
        shared: Arc<Shared>,
        listeners: Vec<Listener>,
        tls: Option<Arc<ServerConfig>>,
        threads: usize,
    ) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("rust-front")
            .max_blocking_threads(1)
            .enable_all()
            .build()?;
        let door = Arc::new(Door { shared: shared.clone(), tls: Lock::default(), peers: Lock::default() });
        *door.tls.lock() = tls;
        let entered = runtime.enter();
        for listener in listeners {
            runtime.spawn(listener.accept_all(door.clone())?);
        }
        drop(entered);
        Ok(Self { shared, door, runtime })
    }

    /// Have new connections begin with other certificates.
    pub fn exchange(&self, tls: Arc<ServerConfig>) {
        *self.door.tls.lock() = Some(tls);
    }

    /// Listen no more, and end all connections: within this time, if they end by themselves.
    pub fn stop(self, grace: Duration) {
        self.shared.stop.send_replace(true);
        let until = Instant::now() + grace;
        while self.shared.counts.open.load(Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Tasks end where they wait; none waits for Python.
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.shared.bridge.close();
    }
}

/// Return an address as gRPC writes it.
fn name_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("ipv4:{address}"),
        SocketAddr::V6(address) => match address.ip().to_ipv4_mapped() {
            Some(ip) => format!("ipv4:{ip}:{}", address.port()),
            None => format!("ipv6:%5B{}%5D:{}", address.ip(), address.port()),
        },
    }
}

impl Door {
    /// Count a connection; None where there are too many.
    fn enter(self: &Arc<Self>, ip: Option<IpAddr>) -> Option<Entry> {
        let (limits, counts) = (&self.shared.limits, &self.shared.counts);
        if counts.open.load(Relaxed) >= limits.connections {
            counts.connections.fetch_add(1, Relaxed);
            return None;
        }
        if let Some(ip) = ip {
            let mut peers = self.peers.lock();
            let of_peer = peers.get(&ip).copied().unwrap_or(0);
            if of_peer >= limits.connections_of_peer {
                counts.connections_of_peer.fetch_add(1, Relaxed);
                return None;
            }
            peers.insert(ip, of_peer + 1);
        }
        counts.open.fetch_add(1, Relaxed);
        Some(Entry { door: self.clone(), ip })
    }
}

/// The place of a connection.
struct Entry {
    door: Arc<Door>,
    ip: Option<IpAddr>,
}

impl Entry {
    /// Whether a caller begins with TLS, where that is wanted. Others could not read a TLS alert: closed without a word,
    /// their connection counts as unavailable with every gRPC client.
    async fn expects(&self, stream: &TcpStream) -> bool {
        if self.door.tls.lock().is_none() {
            return true;
        }
        let shared = &self.door.shared;
        let mut first = [0];
        let seen = timeout(time_limit(shared.limits.handshake_seconds), stream.peek(&mut first)).await;
        let is_tls = matches!(seen, Ok(Ok(1))) && first[0] == HANDSHAKE;
        if !is_tls {
            shared.counts.handshake.fetch_add(1, Relaxed);
        }
        is_tls
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, name: String) {
        let shared = self.door.shared.clone();
        let tls = self.door.tls.lock().clone();
        let Some(tls) = tls else {
            let peer = Peer::new(shared.next_number(), name, None);
            return serve(shared, stream, peer).await;
        };
        let greeting = TlsAcceptor::from(tls).accept(stream);
        match timeout(time_limit(shared.limits.handshake_seconds), greeting).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let certificate = certificate.map(|found| found.to_vec());
                let peer = Peer::new(shared.next_number(), name, certificate);
                serve(shared, stream, peer).await;
            }
            _ => {
                shared.counts.handshake.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.door.shared.counts.open.fetch_sub(1, Relaxed);
        if let Some(ip) = self.ip {
            let mut peers = self.door.peers.lock();
            let left = peers.get(&ip).copied().unwrap_or(1) - 1;
            if left == 0 {
                peers.remove(&ip);
            } else {
                peers.insert(ip, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Limits;
    use std::io::{Read, Write};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    /// A connection in which something panics.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            panic!("broken")
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, content: &[u8]) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Ok(content.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_panic_ends_its_connection_alone() {
        let limits = Limits {
            message_bytes: 1 << 20,
            inflight_bytes: 1 << 24,
            unread_bytes: 1 << 20,
            header_bytes: 1 << 14,
            connections: 2,
            connections_of_peer: 2,
            streams: 10,
            resets_per_second: 100,
            frames_per_second: 100,
            handshake_seconds: 20.0,
            idle_seconds: 0.0,
            patience_seconds: 60.0,
            connection_seconds: 0.0,
            connection_grace_seconds: 0.0,
        };
        let shared = Shared::new(limits, HashMap::new(), vec![], 10).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let running = Running::start(shared.clone(), vec![Listener::Tcp(listener)], None, 1).unwrap();
        // More than there is room for at once: each gives its place back.
        for _ in 0..3 {
            let entry = running.door.enter(None).expect("there is room");
            let broken = running.runtime.spawn(entry.serve(Broken, String::new()));
            assert!(running.runtime.block_on(broken).unwrap_err().is_panic());
        }
        let mut other = std::net::TcpStream::connect(address).unwrap();
        other.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        let mut header = [0; 9];
        other.read_exact(&mut header).unwrap();
        assert_eq!(header[3], 4, "the server greets with its settings");
        running.stop(Duration::ZERO);
    }
}

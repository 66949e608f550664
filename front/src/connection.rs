//! One connection: its limits in time and frames, and the calls that come by it.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bridge::{Bridge, Kind};
use crate::budget::{FairLimit, Hold};
use crate::call::{self, seconds};
use crate::guard::{Abuse, Frames, Guard, Signs};

/// Bytes that a call may send before any are read, and all calls of a connection, at first and once it sends much.
const STREAM_WINDOW: u32 = 256 << 10;
const NARROW_WINDOW: u32 = 256 << 10;
const WIDE_WINDOW: u32 = 1 << 20;

/// What HTTP/2 allows (RFC 9113, 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Bytes under which h2 has a frame for small, and bounds how many it keeps.
const SMALL_FRAME: usize = 256;

/// Bytes of one call's answers that wait to be written, beside what Python holds.
const SEND_BUFFER: usize = 128 << 10;

/// How long a connection that is ended for what it sent may take to hear why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a connection that is to be left may have no calls: a good caller has closed it before.
const LEAVING: Duration = Duration::from_secs(3);

/// What is allowed; 0 seconds mean no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    pub message_bytes: usize,
    pub inflight_bytes: usize,
    pub unread_bytes: usize,
    pub header_bytes: u32,
    pub connections: usize,
    pub connections_of_peer: usize,
    pub streams: u32,
    pub resets_per_second: u32,
    pub frames_per_second: u32,
    pub handshake_seconds: f64,
    pub idle_seconds: f64,
    pub patience_seconds: f64,
    pub connection_seconds: f64,
    pub connection_grace_seconds: f64,
}

impl Limits {
    pub fn patience(&self) -> Duration {
        seconds(self.patience_seconds)
    }
}

/// How often something was refused, or is there.
#[derive(Default)]
pub struct Counts {
    pub open: AtomicUsize,
    pub connections: AtomicU64,
    pub connections_of_peer: AtomicU64,
    pub handshake: AtomicU64,
    pub headers: AtomicU64,
    pub resets: AtomicU64,
    pub frames: AtomicU64,
    pub unread: AtomicU64,
}

/// What all connections share.
pub struct Shared {
    pub limits: Limits,
    pub methods: HashMap<String, (usize, Kind)>,
    /// Names of the metadata that Python wants.
    pub metadata: Vec<String>,
    pub bridge: Arc<Bridge>,
    pub receiving: Arc<FairLimit>,
    pub windows: Arc<FairLimit>,
    /// Answers that wait to be read.
    pub unread: Arc<FairLimit>,
    pub counts: Counts,
    pub numbers: AtomicU64,
    pub stop: watch::Sender<bool>,
}

impl Shared {
    pub fn new(
        limits: Limits,
        methods: HashMap<String, (usize, Kind)>,
        metadata: Vec<String>,
        waiting: usize,
    ) -> std::io::Result<Arc<Self>> {
        // What is not whole yet, and what makes receiving quicker, is little beside what is in flight.
        let receiving = FairLimit::new((limits.inflight_bytes / 4).max(limits.message_bytes));
        let unread = FairLimit::new(limits.inflight_bytes);
        let windows = FairLimit::new((limits.inflight_bytes / 8).max(WIDE_WINDOW as usize));
        Ok(Arc::new(Self {
            limits,
            methods,
            metadata,
            bridge: Bridge::new(waiting)?,
            receiving,
            windows,
            unread,
            counts: Counts::default(),
            numbers: AtomicU64::new(1),
            stop: watch::Sender::new(false),
        }))
    }

    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }
}

/// Who is at the other end.
pub struct Peer {
    pub id: u64,
    /// The address, as gRPC writes it.
    pub name: String,
    /// The certificate that TLS has verified, in DER.
    pub certificate: Option<Vec<u8>>,
    /// The same for Python, made once.
    pub python: OnceLock<Box<dyn Any + Send + Sync>>,
    pub unread: AtomicUsize,
    /// Bytes that its streams hold back.
    held: AtomicUsize,
    calls: AtomicUsize,
    signs: Arc<Signs>,
}

impl Peer {
    pub fn new(id: u64, name: String, certificate: Option<Vec<u8>>) -> Arc<Self> {
        let (unread, held, calls) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { id, name, certificate, python: OnceLock::new(), unread, held, calls, signs: Signs::new() })
    }

    /// Have the window of the connection widened by what a stream holds back.
    pub fn hold_back(&self, bytes: usize) {
        self.held.fetch_add(bytes, Relaxed);
        self.signs.noticed.notify_one();
    }

    /// Have it as narrow again.
    pub fn let_go(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Relaxed);
            self.signs.noticed.notify_one();
        }
    }

    /// Have the windows of the connection widened, if that was not done before.
    pub fn widen(&self) {
        if !self.signs.wide.swap(true, Relaxed) {
            self.signs.noticed.notify_one();
        }
    }
}

struct OpenCalls(Arc<Peer>);

impl Drop for OpenCalls {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

/// Serve a connection until it ends.
pub async fn serve<S>(shared: Arc<Shared>, stream: S, peer: Arc<Peer>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &shared.limits;
    let frames = Frames::new(limits.resets_per_second, limits.frames_per_second);
    let greeting = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(NARROW_WINDOW)
        .max_header_list_size(limits.header_bytes)
        .max_concurrent_streams(limits.streams)
        // The guard ends the connection first.
        .max_pending_accept_reset_streams(limits.resets_per_second as usize)
        // Frames of what was refused here may come a while longer.
        .max_concurrent_reset_streams(limits.streams as usize)
        // Each call may begin with a small frame.
        .data_frame_budget(SMALL_FRAME * (2 * limits.streams as usize + 512))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(Guard::new(stream, frames, peer.signs.clone()));
    let Ok(Ok(mut connection)) = timeout(time_limit(limits.handshake_seconds), greeting).await else {
        shared.counts.handshake.fetch_add(1, Relaxed);
        return;
    };
    let began = Instant::now();
    let age = time_limit(limits.connection_seconds).mul_f64(jitter());
    let end = age.saturating_add(time_limit(limits.connection_grace_seconds));
    let idle = time_limit(limits.idle_seconds);
    let patience = limits.patience();
    let header_time = time_limit(limits.handshake_seconds);
    let shortest = age.min(idle).min(patience).min(header_time);
    let mut ticks = interval((shortest / 8).clamp(Duration::from_millis(20), Duration::from_secs(5)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = shared.stop.subscribe();
    let (mut idle_since, mut leaving) = (None::<Instant>, None::<Instant>);
    let (mut wide, mut window) = (None, NARROW_WINDOW);
    loop {
        let abuse = tokio::select! {
            biased;
            () = peer.signs.noticed.notified() => {
                if peer.signs.wide.load(Relaxed) && wide.is_none() {
                    let mut hold = Hold::new(&shared.windows, peer.id);
                    wide = Some(hold.grow(WIDE_WINDOW as usize).then_some(hold));
                }
                let base = if matches!(wide, Some(Some(_))) { WIDE_WINDOW } else { NARROW_WINDOW };
                let held = u32::try_from(peer.held.load(Relaxed)).unwrap_or(0);
                let wanted = base.saturating_add(held).min(MAX_WINDOW);
                if wanted != window {
                    window = wanted;
                    connection.set_target_window_size(window);
                }
                peer.signs.abuse().map(|abuse| match abuse {
                    Abuse::Resets => &shared.counts.resets,
                    Abuse::Frames => &shared.counts.frames,
                })
            }
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                peer.calls.fetch_add(1, Relaxed);
                let open = OpenCalls(peer.clone());
                let serving = call::serve(shared.clone(), peer.clone(), request, respond);
                tokio::spawn(async move {
                    serving.await;
                    drop(open);
                });
                None
            }
            _ = ticks.tick() => {
                let (headers, unwritten) = peer.signs.waits();
                let busy = peer.calls.load(Relaxed) > 0;
                idle_since = if busy { None } else { idle_since.or_else(|| Some(Instant::now())) };
                let idles = idle_since.map_or(Duration::ZERO, |since| since.elapsed());
                let leaves = leaving.map_or(Duration::ZERO, |since| since.elapsed());
                if began.elapsed() >= end || idles.min(leaves) >= LEAVING {
                    return;
                }
                if leaving.is_none() && (idles >= idle || began.elapsed() >= age) {
                    leaving = Some(Instant::now());
                    connection.graceful_shutdown();
                }
                if headers >= header_time {
                    Some(&shared.counts.headers)
                } else {
                    (unwritten >= 2 * patience).then_some(&shared.counts.unread)
                }
            }
            _ = stop.changed(), if leaving.is_none() => {
                leaving = Some(Instant::now());
                connection.graceful_shutdown();
                None
            }
        };
        if let Some(count) = abuse {
            count.fetch_add(1, Relaxed);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            let _ = timeout(LAST_WORDS, poll_fn(|cx| connection.poll_closed(cx))).await;
            return;
        }
    }
}

/// Return seconds as a limit; 0 is none.
pub fn time_limit(limit: f64) -> Duration {
    seconds(if limit > 0.0 { limit } else { f64::INFINITY })
}

/// Return a factor from 0.9 to 1.1, so that connections that began together do not end so.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    0.9 + f64::from((random % 2001) as u32) / 10_000.0
}

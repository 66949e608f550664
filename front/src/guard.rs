//! Watches the bytes of a connection for frames that cost more than they say, before h2 sees them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

const PREFACE: usize = 24;
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// Why a connection is ended for what its caller sends.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
#[repr(u8)]
pub enum Abuse {
    Resets = 1,
    Frames = 2,
}

/// What the guard of a connection says to its task.
pub struct Signs {
    began: Instant,
    abuse: AtomicU8,
    pub noticed: Notify,
    /// Milliseconds after the begin since when headers are incomplete, or nothing can be written; 0 for not.
    headers_since: AtomicU64,
    unwritten_since: AtomicU64,
    /// Whether the windows may be wide.
    pub wide: AtomicBool,
}

impl Signs {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            abuse: AtomicU8::new(0),
            noticed: Notify::new(),
            headers_since: AtomicU64::new(0),
            unwritten_since: AtomicU64::new(0),
            wide: AtomicBool::new(false),
        })
    }

    pub fn abuse(&self) -> Option<Abuse> {
        match self.abuse.load(Relaxed) {
            1 => Some(Abuse::Resets),
            2 => Some(Abuse::Frames),
            _ => None,
        }
    }

    /// How long headers have been coming, and how long nothing could be written.
    pub fn waits(&self) -> (Duration, Duration) {
        let now = self.now();
        let since = |time: &AtomicU64| match time.load(Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_millis(now.saturating_sub(began)),
        };
        (since(&self.headers_since), since(&self.unwritten_since))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// Counts frames by their headers.
pub struct Frames {
    max_resets: u32,
    max_frames: u32,
    preface: usize,
    header: [u8; HEADER],
    have: usize,
    payload: usize,
    in_headers: bool,
    second: Instant,
    resets: u32,
    frames: u32,
}

impl Frames {
    pub fn new(max_resets: u32, max_frames: u32) -> Self {
        Self {
            max_resets,
            max_frames,
            preface: PREFACE,
            header: [0; HEADER],
            have: 0,
            payload: 0,
            in_headers: false,
            second: Instant::now(),
            resets: 0,
            frames: 0,
        }
    }

    /// Whether headers have begun that are not whole.
    fn is_within_headers(&self) -> bool {
        self.in_headers || (0 < self.have && self.have < HEADER)
    }

    /// Look at bytes that have come; returns what is wrong with them.
    pub fn look(&mut self, mut data: &[u8], now: Instant) -> Option<Abuse> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.resets, self.frames) = (now, 0, 0);
        }
        while !data.is_empty() {
            if self.preface > 0 || self.payload > 0 {
                let left = if self.preface > 0 { &mut self.preface } else { &mut self.payload };
                let count = data.len().min(*left);
                *left -= count;
                data = &data[count..];
                if self.payload == 0 && self.have == HEADER {
                    self.end_frame();
                }
                continue;
            }
            let count = data.len().min(HEADER - self.have);
            self.header[self.have..self.have + count].copy_from_slice(&data[..count]);
            self.have += count;
            data = &data[count..];
            if self.have == HEADER {
                if let Some(abuse) = self.begin_frame() {
                    return Some(abuse);
                }
                if self.payload == 0 {
                    self.end_frame();
                }
            }
        }
        None
    }

    fn begin_frame(&mut self) -> Option<Abuse> {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_empty = self.payload == 0;
        match kind {
            // They open a stream, or carry something.
            HEADERS => self.in_headers = true,
            DATA if !is_empty || flags & END_STREAM != 0 => {}
            // Who reads large answers sends many.
            WINDOW_UPDATE => {}
            RST_STREAM => self.resets += 1,
            _ => self.frames += 1,
        }
        if self.resets > self.max_resets {
            Some(Abuse::Resets)
        } else {
            (self.frames > self.max_frames).then_some(Abuse::Frames)
        }
    }

    fn end_frame(&mut self) {
        self.have = 0;
        if matches!(self.header[3], HEADERS | CONTINUATION) && self.header[4] & END_HEADERS != 0 {
            self.in_headers = false;
        }
    }
}

/// A connection's bytes, watched.
pub struct Guard<S> {
    inner: S,
    frames: Frames,
    signs: Arc<Signs>,
}

impl<S> Guard<S> {
    pub fn new(inner: S, frames: Frames, signs: Arc<Signs>) -> Self {
        Self { inner, frames, signs }
    }

    fn note_write<T>(&self, written: Poll<T>) -> Poll<T> {
        let blocked = self.signs.unwritten_since.load(Relaxed) != 0;
        if written.is_pending() != blocked {
            self.signs.unwritten_since.store(if blocked { 0 } else { self.signs.now() }, Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.signs.abuse().is_some() {
            // The connection's task ends it, and says why; nothing more is read.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let this = &mut *self;
        if let Some(abuse) = this.frames.look(&buf.filled()[before..], Instant::now()) {
            this.signs.abuse.store(abuse as u8, Relaxed);
            this.signs.noticed.notify_one();
            buf.set_filled(before);
            return Poll::Pending;
        }
        let waits = this.signs.headers_since.load(Relaxed) != 0;
        if this.frames.is_within_headers() != waits {
            this.signs.headers_since.store(if waits { 0 } else { this.signs.now() }, Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, data);
        self.note_write(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn wire(frames: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
        let mut wire = vec![b'x'; PREFACE];
        wire.extend(frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, payload)));
        wire
    }

    proptest! {
        #[test]
        fn frames_are_counted_however_they_are_cut(
            frames in prop::collection::vec((0..12u8, 0..8u8, prop::collection::vec(any::<u8>(), 0..50)), 0..40),
            size in 1..70usize,
        ) {
            let mut watch = Frames::new(1_000, 1_000);
            let now = Instant::now();
            for part in wire(&frames).chunks(size) {
                prop_assert_eq!(watch.look(part, now), None);
            }
            let resets = frames.iter().filter(|frame| frame.0 == RST_STREAM).count();
            prop_assert_eq!(watch.resets as usize, resets);
            let open = frames.iter().rev().find(|frame| frame.0 == HEADERS || frame.0 == CONTINUATION);
            let last_headers = frames.iter().rposition(|frame| frame.0 == HEADERS);
            let last_end = frames.iter().rposition(|f| matches!(f.0, HEADERS | CONTINUATION) && f.1 & END_HEADERS != 0);
            prop_assert_eq!(watch.is_within_headers(), open.is_some() && last_headers > last_end);
        }

        #[test]
        fn no_bytes_are_too_odd(wire in prop::collection::vec(any::<u8>(), 0..500), size in 1..50usize) {
            let mut watch = Frames::new(2, 2);
            for part in wire.chunks(size) {
                watch.look(part, Instant::now());
            }
        }
    }

    #[test]
    fn too_many_in_a_second() {
        let now = Instant::now();
        let resets = vec![(RST_STREAM, 0, vec![0; 4]); 3];
        assert_eq!(Frames::new(2, 100).look(&wire(&resets), now), Some(Abuse::Resets));
        let mut watch = Frames::new(3, 100);
        assert_eq!(watch.look(&wire(&resets), now), None);
        assert_eq!(watch.look(&frame(RST_STREAM, 0, &[0; 4]), now + Duration::from_secs(2)), None);
        let pings = vec![(6, 0, vec![0; 8]); 3];
        assert_eq!(Frames::new(2, 2).look(&wire(&pings), now), Some(Abuse::Frames));
        let empty = vec![(DATA, 0, vec![]); 3];
        assert_eq!(Frames::new(2, 2).look(&wire(&empty), now), Some(Abuse::Frames));
        let data = vec![(DATA, 0, vec![1]); 300];
        assert_eq!(Frames::new(2, 2).look(&wire(&data), now), None);
    }
}

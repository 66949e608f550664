//! What passes between the tasks of calls and Python: calls many at a time one way, answers the other.
//!
//! Nothing here knows Python's lock. Unary calls wait in a queue that a thread of Python blocks on; what happens to
//! streams waits in another, whose file descriptor an event loop of Python watches.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::budget::Hold;
use crate::connection::Peer;
use crate::lock::Lock;
use crate::message::{Content, Fault};
use crate::status::Status;

/// Bytes of a stream's messages that wait in Python, or in its answers here, from which no more are passed on.
const WINDOW: usize = 64 << 10;

/// What a message costs besides its bytes.
const OVERHEAD: usize = 128;

/// How the calls of a method come to Python.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Many at a time, each with its request, to be answered once.
    Unary,
    /// As an event, with its request.
    Whole,
    /// As an event, before any of its messages.
    Stream,
}

/// What is known of a call by its headers.
pub struct Arrival {
    pub number: u64,
    pub method: usize,
    pub arrived: Instant,
    pub timeout: Option<Duration>,
    /// Values by the place of their names among those that are wanted.
    pub metadata: Vec<(usize, Vec<u8>)>,
    pub peer: Arc<Peer>,
}

/// A call for Python, with its request or why that was not received; neither for a stream.
pub struct Request {
    pub arrival: Arrival,
    pub content: Result<Option<Content>, Fault>,
}

/// A serialised answer, its prefix and content in two parts.
pub struct Answer {
    pub head: Bytes,
    pub tail: Bytes,
}

impl Answer {
    pub fn size(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// What a call is answered with.
pub enum End {
    Answer(Answer),
    Failure(Status),
}

/// What Python does with a stream.
pub enum Command {
    Headers(Vec<(String, Vec<u8>)>),
    Message(Answer),
    Finish(Status),
}

/// What happens to a stream.
pub enum Event {
    Open(Request),
    Message(u64, Content),
    HalfClosed(u64),
    Writable(u64),
    Gone(u64, u8),
}

/// What Python gets at once: calls, those whose callers have gone, answers that were read, and how many calls of which
/// method ended by which code before they were taken.
pub struct Batch {
    pub calls: Vec<Request>,
    pub gone: Vec<u64>,
    pub read: Vec<u64>,
    pub dropped: Vec<(usize, u8, u64)>,
}

#[derive(Default)]
struct Calls {
    order: VecDeque<u64>,
    waiting: usize,
    open: HashMap<u64, (Option<Request>, oneshot::Sender<End>)>,
    gone: Vec<u64>,
    read: Vec<u64>,
    dropped: HashMap<(usize, u8), u64>,
    sleeping: bool,
    closed: bool,
}

#[derive(Default)]
struct Streams {
    events: VecDeque<Event>,
    open: HashMap<u64, Open>,
    signalled: bool,
    closed: bool,
}

struct Open {
    commands: mpsc::UnboundedSender<Command>,
    flow: Arc<Flow>,
    method: usize,
    taken: bool,
}

/// Costs of messages, with what each holds of the limit on bytes; and their sum.
type Unconsumed = (VecDeque<(usize, Option<Hold>)>, usize);

/// How much of a stream's messages waits on its way, in either direction.
#[derive(Default)]
pub struct Flow {
    /// What Python has not consumed.
    unconsumed: Lock<Unconsumed>,
    consumed: Notify,
    unsent: AtomicUsize,
    wanted: AtomicBool,
    over: AtomicBool,
}

impl Flow {
    /// Return whether Python has ended the stream, and takes no more messages.
    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Wait until another message may be passed on to Python, or the stream is over.
    pub async fn room(&self) {
        loop {
            let consumed = self.consumed.notified();
            if self.unconsumed.lock().1 < WINDOW || self.is_over() {
                return;
            }
            consumed.await;
        }
    }

    fn consume(&self, count: usize) {
        let mut unconsumed = self.unconsumed.lock();
        for _ in 0..count {
            if let Some((cost, _hold)) = unconsumed.0.pop_front() {
                unconsumed.1 -= cost;
            }
        }
        drop(unconsumed);
        self.consumed.notify_one();
    }

    /// Note that so many bytes were sent; returns whether Python waits for that.
    fn sent(&self, len: usize) -> bool {
        let left = self.unsent.fetch_sub(len + OVERHEAD, SeqCst) - len - OVERHEAD;
        left < WINDOW && self.wanted.swap(false, SeqCst)
    }

    /// Note that so many bytes are to be sent; returns whether there may be more at once.
    fn send(&self, len: usize) -> bool {
        let unsent = self.unsent.fetch_add(len + OVERHEAD, SeqCst) + len + OVERHEAD;
        if unsent < WINDOW {
            return true;
        }
        self.wanted.store(true, SeqCst);
        self.unsent.load(SeqCst) < WINDOW && self.wanted.swap(false, SeqCst)
    }
}

pub struct Bridge {
    max_waiting: usize,
    calls: Lock<Calls>,
    ready: Condvar,
    streams: Lock<Streams>,
    signal: UnixStream,
    watched: UnixStream,
}

impl Bridge {
    /// Make one in which so many unary calls may wait for Python.
    pub fn new(max_waiting: usize) -> std::io::Result<Arc<Self>> {
        let (signal, watched) = UnixStream::pair()?;
        signal.set_nonblocking(true)?;
        watched.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            max_waiting,
            calls: Lock::default(),
            ready: Condvar::new(),
            streams: Lock::default(),
            signal,
            watched,
        }))
    }

    /// Hand over a unary call; returns None where too many wait already.
    pub fn enter(&self, request: Request) -> Option<oneshot::Receiver<End>> {
        let mut calls = self.calls.lock();
        if calls.waiting >= self.max_waiting || calls.closed {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let number = request.arrival.number;
        calls.order.push_back(number);
        calls.waiting += 1;
        calls.open.insert(number, (Some(request), sender));
        self.wake(calls);
        Some(receiver)
    }

    fn wake(&self, mut calls: std::sync::MutexGuard<'_, Calls>) {
        let wake = std::mem::take(&mut calls.sleeping);
        drop(calls);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Note that a unary call is over without an answer, if it is open.
    pub fn leave(&self, number: u64, code: u8) {
        let mut calls = self.calls.lock();
        let Some((request, _sender)) = calls.open.remove(&number) else { return };
        if let Some(request) = &request {
            calls.waiting -= 1;
            *calls.dropped.entry((request.arrival.method, code)).or_default() += 1;
            // Of a flood of calls that are reset at once, few numbers stay behind.
            if calls.order.len() > 2 * calls.waiting + 1024 {
                let mut order = std::mem::take(&mut calls.order);
                order.retain(|number| calls.open.get(number).is_some_and(|(request, _)| request.is_some()));
                calls.order = order;
            }
        } else {
            calls.gone.push(number);
        }
        self.wake(calls);
        // A large one takes a while to free.
        drop(request);
    }

    /// Note a call that was answered here.
    pub fn count(&self, method: usize, code: u8) {
        let mut calls = self.calls.lock();
        *calls.dropped.entry((method, code)).or_default() += 1;
        self.wake(calls);
    }

    /// Note that a large answer is in memory no more.
    pub fn note_read(&self, number: u64) {
        let mut calls = self.calls.lock();
        calls.read.push(number);
        self.wake(calls);
    }

    /// Wait for calls, and take so many at most; None once it is closed.
    pub fn take(&self, max: usize) -> Option<Batch> {
        let mut calls = self.calls.lock();
        while calls.waiting == 0 && calls.gone.is_empty() && calls.read.is_empty() && calls.dropped.is_empty() {
            if calls.closed {
                return None;
            }
            calls.sleeping = true;
            calls = self.ready.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        let mut taken = Vec::with_capacity(max.min(calls.waiting));
        while taken.len() < max {
            let Some(number) = calls.order.pop_front() else { break };
            if let Some(request) = calls.open.get_mut(&number).and_then(|(request, _)| request.take()) {
                calls.waiting -= 1;
                taken.push(request);
            }
        }
        let dropped = std::mem::take(&mut calls.dropped);
        Some(Batch {
            calls: taken,
            gone: std::mem::take(&mut calls.gone),
            read: std::mem::take(&mut calls.read),
            dropped: dropped.into_iter().map(|((method, code), count)| (method, code, count)).collect(),
        })
    }

    /// Take the places for the answers of calls that are open.
    pub fn answers(&self, numbers: &[u64]) -> Vec<Option<oneshot::Sender<End>>> {
        let mut calls = self.calls.lock();
        numbers.iter().map(|number| calls.open.remove(number).map(|(_, sender)| sender)).collect()
    }

    /// Open a stream.
    pub fn open(&self, request: Request) -> (mpsc::UnboundedReceiver<Command>, Arc<Flow>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let flow = Arc::new(Flow::default());
        let Arrival { number, method, .. } = request.arrival;
        let mut streams = self.streams.lock();
        streams.open.insert(number, Open { commands, flow: flow.clone(), method, taken: false });
        streams.events.push_back(Event::Open(request));
        self.signal(streams);
        (receiver, flow)
    }

    /// Pass on a message of a stream.
    pub fn pass(&self, number: u64, mut content: Content, flow: &Flow) {
        let cost = content.size() + OVERHEAD;
        let hold = content.take_hold();
        let mut unconsumed = flow.unconsumed.lock();
        unconsumed.0.push_back((cost, hold));
        unconsumed.1 += cost;
        drop(unconsumed);
        self.note(Event::Message(number, content));
    }

    /// Note what happens to a stream.
    pub fn note(&self, event: Event) {
        let mut streams = self.streams.lock();
        streams.events.push_back(event);
        self.signal(streams);
    }

    fn signal(&self, mut streams: std::sync::MutexGuard<'_, Streams>) {
        let signal = !std::mem::replace(&mut streams.signalled, true);
        drop(streams);
        if signal {
            // It can't be full: it has one byte at most.
            let _ = (&self.signal).write(&[1]);
        }
    }

    /// Note that a message of a stream was sent.
    pub fn sent(&self, number: u64, len: usize, flow: &Flow) {
        if flow.sent(len) {
            self.note(Event::Writable(number));
        }
    }

    /// Note that a stream is over without a status of Python's, if it is open.
    pub fn leave_stream(&self, number: u64, code: u8) {
        let mut streams = self.streams.lock();
        let Some(Open { method, taken, .. }) = streams.open.remove(&number) else { return };
        if taken {
            streams.events.push_back(Event::Gone(number, code));
            self.signal(streams);
            return;
        }
        // Of a flood of streams that are reset at once, few events stay behind.
        if streams.events.len() > 4 * streams.open.len() + 1024 {
            let mut events = std::mem::take(&mut streams.events);
            events.retain(|event| streams.wants(event));
            streams.events = events;
        }
        drop(streams);
        self.count(method, code);
    }

    /// Take what has happened to streams; None once it is closed.
    pub fn take_events(&self) -> Option<Vec<Event>> {
        let mut streams = self.streams.lock();
        streams.signalled = false;
        let mut byte = [0];
        let _ = (&self.watched).read(&mut byte);
        if streams.closed && streams.events.is_empty() {
            return None;
        }
        let mut events: Vec<Event> = std::mem::take(&mut streams.events).into();
        events.retain(|event| streams.wants(event));
        for event in &events {
            if let Event::Open(request) = event {
                if let Some(open) = streams.open.get_mut(&request.arrival.number) {
                    open.taken = true;
                }
            }
        }
        Some(events)
    }

    pub fn watched(&self) -> RawFd {
        self.watched.as_raw_fd()
    }

    /// Let Python have more of a stream's messages, since it has consumed so many.
    pub fn consume(&self, number: u64, count: usize) {
        let flow = self.streams.lock().open.get(&number).map(|open| open.flow.clone());
        if let Some(flow) = flow {
            flow.consume(count);
        }
    }

    /// Have a stream do something; returns whether another message may be sent at once.
    pub fn command(&self, number: u64, command: Command) -> bool {
        let mut streams = self.streams.lock();
        if matches!(command, Command::Finish(_)) {
            if let Some(open) = streams.open.remove(&number) {
                let _ = open.commands.send(command);
                open.flow.over.store(true, SeqCst);
                open.flow.consumed.notify_one();
            }
            return true;
        }
        let Some(open) = streams.open.get(&number) else { return true };
        let room = match &command {
            Command::Message(answer) => open.flow.send(answer.size()),
            _ => true,
        };
        let _ = open.commands.send(command);
        room
    }

    /// Hand over nothing more: what waits is still taken.
    pub fn close(&self) {
        let mut calls = self.calls.lock();
        calls.closed = true;
        self.wake(calls);
        let mut streams = self.streams.lock();
        streams.closed = true;
        self.signal(streams);
    }
}

impl Streams {
    fn wants(&self, event: &Event) -> bool {
        match event {
            Event::Open(request) => self.open.contains_key(&request.arrival.number),
            Event::Message(number, _) | Event::HalfClosed(number) | Event::Writable(number) => {
                self.open.contains_key(number)
            }
            Event::Gone(..) => true,
        }
    }
}

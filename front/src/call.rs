//! One call: its task reads the request, hands it over, and writes the answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::time::{sleep_until, timeout, timeout_at};

use crate::bridge::{Answer, Arrival, Command, End, Event, Kind, Request};
use crate::budget::Hold;
use crate::connection::{Peer, Shared};
use crate::message::{Content, Encoding, Fault, Message, Reader, open};
use crate::status::{
    CANCELLED, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, Status, UNIMPLEMENTED, parse_timeout, write_metadata,
};

/// Bytes of a message from which the windows of its connection may be wide.
const WIDE_FROM: usize = 64 << 10;

/// How much longer than Python a stream is waited for here: how it ends is for Python to say.
const LAST_CHANCE: Duration = Duration::from_secs(30);

/// Serve one call.
pub async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let arrived = Instant::now();
    let (head, body) = request.into_parts();
    let out = Outbound {
        shared: shared.clone(),
        peer: peer.clone(),
        respond: Some(respond),
        send: None,
        is_stream: false,
        is_cut: false,
    };
    if head.method != Method::POST {
        return out.refuse(StatusCode::METHOD_NOT_ALLOWED, body).await;
    }
    if !head.headers.get(CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes())) {
        return out.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, body).await;
    }
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let Some(&(method, kind)) = shared.methods.get(path) else {
        return out.finish(&Status::new(UNIMPLEMENTED, "there is no such method"));
    };
    let given = head.headers.get("grpc-timeout").map(|value| parse_timeout(value.as_bytes()));
    let Some(timeout) = given.map_or(Some(None), |found| found.map(Some)) else {
        return out.answer_here(method, &Status::new(INTERNAL, "grpc-timeout is invalid"));
    };
    let number = shared.next_number();
    let metadata = wanted(&shared, &head.headers);
    let arrival = Arrival { number, method, arrived, timeout, metadata, peer: peer.clone() };
    let encoding = Encoding::of(head.headers.get("grpc-encoding").map(HeaderValue::as_bytes));
    let reader = Reader::new(shared.limits.message_bytes);
    let is_stream = kind == Kind::Stream;
    let room = Hold::new(&shared.windows, peer.id);
    let (data, held) = (Bytes::new(), BytesMut::new());
    let input = Inbound { reader, shared, peer, body, encoding, data, held, room, is_stream };
    match kind {
        Kind::Unary => unary(arrival, input, out).await,
        Kind::Whole => {
            let (mut input, method, deadline) = (input, arrival.method, deadline_of(&arrival));
            match input.whole(deadline).await {
                Ok(content) => stream(Request { arrival, content: Ok(Some(content)) }, input, out).await,
                Err(Fault::Gone) => input.shared.bridge.count(method, CANCELLED),
                Err(fault) => out.answer_here(method, &input.status_of(fault, deadline)),
            }
        }
        Kind::Stream => stream(Request { arrival, content: Ok(None) }, input, out).await,
    }
}

fn is_grpc(kind: &[u8]) -> bool {
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn wanted(shared: &Shared, headers: &HeaderMap) -> Vec<(usize, Vec<u8>)> {
    let names = shared.metadata.iter().enumerate();
    names
        .flat_map(|(place, name)| headers.get_all(name).iter().map(move |value| (place, value.as_bytes().to_vec())))
        .collect()
}

fn deadline_of(arrival: &Arrival) -> Option<tokio::time::Instant> {
    arrival.timeout.map(|timeout| (arrival.arrived + timeout).into())
}

async fn reached(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn unary(arrival: Arrival, mut input: Inbound, mut out: Outbound) {
    let (number, method, deadline) = (arrival.number, arrival.method, deadline_of(&arrival));
    let shared = input.shared.clone();
    let content = match input.whole(deadline).await {
        Ok(content) => Ok(Some(content)),
        Err(Fault::Gone) => return shared.bridge.count(method, CANCELLED),
        // Python refuses these, as it does what it has no room for.
        Err(fault @ (Fault::TooLarge(_) | Fault::NoRoom)) => Err(fault),
        Err(Fault::Late) if !input.is_past(deadline) => Err(Fault::Late),
        Err(fault) => return out.answer_here(method, &input.status_of(fault, deadline)),
    };
    let Some(answer) = shared.bridge.enter(Request { arrival, content }) else {
        return out.answer_here(method, &Status::new(RESOURCE_EXHAUSTED, "too many calls wait to be handed over"));
    };
    let mut open = OpenCall { shared, number, code: CANCELLED };
    let end = tokio::select! {
        biased;
        end = answer => end.ok(),
        () = out.reset() => None,
        () = reached(deadline) => {
            open.code = DEADLINE_EXCEEDED;
            Some(End::Failure(Status::new(DEADLINE_EXCEEDED, "the deadline has passed")))
        }
    };
    drop(open);
    match end {
        Some(End::Answer(answer)) => {
            // Where the caller has gone, or does not read, nothing is left to be said.
            if out.message(answer).await.is_ok() {
                out.finish(&Status::default());
            }
        }
        Some(End::Failure(status)) => out.finish(&status),
        None => out.cancel(),
    }
}

/// A unary call that Python may answer.
struct OpenCall {
    shared: Arc<Shared>,
    number: u64,
    code: u8,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.shared.bridge.leave(self.number, self.code);
    }
}

struct OpenStream(OpenCall);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.shared.bridge.leave_stream(self.0.number, self.0.code);
    }
}

async fn stream(request: Request, mut input: Inbound, mut out: Outbound) {
    let (number, deadline) = (request.arrival.number, deadline_of(&request.arrival));
    let is_read = matches!(request.content, Ok(None));
    out.is_stream = true;
    let shared = input.shared.clone();
    let (mut commands, flow) = shared.bridge.open(request);
    let mut open = OpenStream(OpenCall { shared: shared.clone(), number, code: CANCELLED });
    let fault = {
        let reading = async {
            if !is_read {
                return std::future::pending().await;
            }
            loop {
                tokio::select! {
                    biased;
                    () = flow.room() => {}
                    fault = input.hold_back() => return fault,
                }
                if flow.is_over() {
                    return input.discard().await;
                }
                if let Err(fault) = input.begin().await {
                    return fault;
                }
                // It has begun, and may not stay forever in memory that others need.
                match timeout(shared.limits.patience() + LAST_CHANCE, input.message()).await {
                    Ok(Ok(Some(content))) => shared.bridge.pass(number, content, &flow),
                    Ok(Ok(None)) => {
                        shared.bridge.note(Event::HalfClosed(number));
                        return std::future::pending().await;
                    }
                    Ok(Err(fault)) => return fault,
                    Err(_) => return Fault::Late,
                }
            }
        };
        let writing = async {
            loop {
                let command = tokio::select! {
                    biased;
                    command = commands.recv() => command,
                    () = out.reset() => None,
                };
                match command {
                    Some(Command::Headers(metadata)) => out.headers(&metadata)?,
                    Some(Command::Message(answer)) => {
                        let len = answer.size();
                        out.message(answer).await?;
                        shared.bridge.sent(number, len, &flow);
                    }
                    Some(Command::Finish(status)) => return Ok(status),
                    None => return Err(()),
                }
            }
        };
        tokio::select! {
            biased;
            status = writing => {
                match status {
                    Ok(status) => out.finish(&status),
                    Err(()) => out.cancel(),
                }
                return;
            }
            () = reached(deadline) => None,
            fault = reading => Some(fault),
        }
    };
    let status = match fault {
        None => Status::new(DEADLINE_EXCEEDED, "the deadline has passed"),
        Some(Fault::Gone) => return,
        Some(fault) => Status::of(fault, shared.limits.message_bytes),
    };
    open.0.code = status.code;
    out.finish(&status);
}

/// What a caller sends.
struct Inbound {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    body: RecvStream,
    encoding: Encoding,
    reader: Reader,
    data: Bytes,
    /// What came while no more could be passed on, by which the window of the connection is wider meanwhile.
    held: BytesMut,
    room: Hold,
    is_stream: bool,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.peer.let_go(self.held.len());
    }
}

impl Inbound {
    /// Read the one message of a call, and its end.
    async fn whole(&mut self, deadline: Option<tokio::time::Instant>) -> Result<Content, Fault> {
        let patience = tokio::time::Instant::now() + self.shared.limits.patience();
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let reading = async {
            let content = self.message().await?.ok_or(Fault::Malformed("the call has no message"))?;
            if (self.body.is_end_stream() && self.data.is_empty()) || self.raw().await?.is_none() {
                Ok(content)
            } else {
                Err(Fault::Malformed("the call has more than one message"))
            }
        };
        timeout_at(until, reading).await.unwrap_or(Err(Fault::Late))
    }

    fn is_past(&self, deadline: Option<tokio::time::Instant>) -> bool {
        deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline)
    }

    fn status_of(&self, fault: Fault, deadline: Option<tokio::time::Instant>) -> Status {
        if fault == Fault::Late && self.is_past(deadline) {
            return Status::new(DEADLINE_EXCEEDED, "the deadline has passed");
        }
        Status::of(fault, self.shared.limits.message_bytes)
    }

    /// Read a message; None at the end of the call.
    async fn message(&mut self) -> Result<Option<Content>, Fault> {
        let Some(message) = self.raw().await? else { return Ok(None) };
        let hold = Hold::new(&self.shared.receiving, self.peer.id);
        open(message, self.encoding, self.shared.limits.message_bytes, hold).await.map(Some)
    }

    /// Take what comes while no more may be passed on: many small frames take little then, and the stream's window stays
    /// closed. That of the connection is not, for others on it.
    async fn hold_back(&mut self) -> Fault {
        loop {
            match self.body.data().await {
                Some(Ok(data)) if self.room.grow(data.len()) => {
                    self.held.extend_from_slice(&data);
                    self.peer.hold_back(data.len());
                }
                Some(Ok(_)) => return Fault::NoRoom,
                Some(Err(_)) => return Fault::Gone,
                None => return std::future::pending().await,
            }
        }
    }

    /// Go on with what was held back; returns whether there was something.
    fn resume(&mut self) -> bool {
        self.data = self.held.split().freeze();
        if self.data.is_empty() {
            return false;
        }
        let _ = self.body.flow_control().release_capacity(self.data.len());
        self.peer.let_go(self.data.len());
        self.room = Hold::new(&self.shared.windows, self.peer.id);
        true
    }

    /// Let go what has come and still comes of a stream that is over for Python, while its caller reads what it is owed.
    async fn discard(&mut self) -> Fault {
        while self.resume() {}
        self.data.clear();
        loop {
            match self.body.data().await {
                Some(Ok(data)) => drop(self.body.flow_control().release_capacity(data.len())),
                Some(Err(_)) => return Fault::Gone,
                None => return std::future::pending().await,
            }
        }
    }

    /// Wait until something of the next message is there, or the end of the call.
    async fn begin(&mut self) -> Result<(), Fault> {
        if self.data.is_empty() && self.held.is_empty() && self.reader.is_between() {
            match self.body.data().await {
                Some(Ok(data)) => {
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.data = data;
                }
                Some(Err(_)) => return Err(Fault::Gone),
                None => {}
            }
        }
        Ok(())
    }

    async fn raw(&mut self) -> Result<Option<Message>, Fault> {
        let receiving = self.shared.receiving.clone();
        loop {
            while !self.data.is_empty() {
                let mut left = &self.data[..];
                let released = receiving.released();
                let hold = || Hold::new(&receiving, self.peer.id);
                let taken = self.reader.take(&mut left, hold);
                let count = self.data.len() - left.len();
                self.data.advance(count);
                match taken {
                    Ok(None) => {}
                    // Its caller is held up; one of a unary call hears that it should come again.
                    Err(Fault::NoRoom) if self.is_stream => tokio::select! {
                        () = released => {}
                        fault = self.hold_back() => return Err(fault),
                    },
                    _ => return taken,
                }
            }
            if self.reader.announced().is_some_and(|size| size > WIDE_FROM) {
                self.peer.widen();
            }
            if self.resume() {
                continue;
            }
            match self.body.data().await {
                Some(Ok(data)) => {
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.data = data;
                }
                Some(Err(_)) => return Err(Fault::Gone),
                None if self.reader.is_between() => return Ok(None),
                None => return Err(Fault::Malformed("the call ends within a message")),
            }
        }
    }
}

/// What a caller gets.
struct Outbound {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    respond: Option<SendResponse<Bytes>>,
    send: Option<SendStream<Bytes>>,
    is_stream: bool,
    /// Whether a part of a message was sent, and the rest was not.
    is_cut: bool,
}

impl Outbound {
    /// Wait until the caller has gone.
    async fn reset(&mut self) {
        poll_fn(|cx| match (&mut self.send, &mut self.respond) {
            (Some(send), _) => send.poll_reset(cx).map(|_| ()),
            (None, Some(respond)) => respond.poll_reset(cx).map(|_| ()),
            (None, None) => std::task::Poll::Ready(()),
        })
        .await;
    }

    fn headers(&mut self, metadata: &[(String, Vec<u8>)]) -> Result<(), ()> {
        if let Some(mut respond) = self.respond.take() {
            let mut response = Response::new(());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            write_metadata(metadata, response.headers_mut());
            self.send = Some(respond.send_response(response, false).map_err(|_| ())?);
        }
        Ok(())
    }

    /// Send a message; an error where the caller has gone, or has not read for long: it is reset then.
    async fn message(&mut self, answer: Answer) -> Result<(), ()> {
        self.headers(&[])?;
        let Some(send) = &mut self.send else { return Err(()) };
        let Answer { head, tail } = answer;
        send.reserve_capacity(head.len() + tail.len());
        if send.capacity() >= head.len() + tail.len() {
            send.send_data(head, false).map_err(|_| ())?;
            return if tail.is_empty() { Ok(()) } else { send.send_data(tail, false).map_err(|_| ()) };
        }
        // Of a stream little waits here, since Python does not send more than is read.
        let unread = if self.is_stream { None } else { Unread::new(&self.shared, &self.peer, head.len() + tail.len()) };
        if unread.is_none() && !self.is_stream {
            self.shared.counts.unread.fetch_add(1, Relaxed);
            send.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Err(());
        }
        for mut part in [head, tail] {
            while !part.is_empty() {
                send.reserve_capacity(part.len());
                // Python has its own patience with each message of a stream, and says then how that ends.
                let patience =
                    self.shared.limits.patience() + if self.is_stream { LAST_CHANCE } else { Duration::ZERO };
                let Ok(capacity) = timeout(patience, capacity_of(send)).await else {
                    self.shared.counts.unread.fetch_add(1, Relaxed);
                    send.send_reset(Reason::ENHANCE_YOUR_CALM);
                    return Err(());
                };
                send.send_data(part.split_to(capacity?.min(part.len())), false).map_err(|_| ())?;
                self.is_cut = true;
            }
        }
        self.is_cut = false;
        Ok(())
    }

    /// End the call.
    fn finish(mut self, status: &Status) {
        if self.is_cut {
            return self.cancel();
        }
        let mut trailers = HeaderMap::new();
        status.write(&mut trailers);
        if let Some(mut send) = self.send.take() {
            let _ = send.send_trailers(trailers);
        } else if let Some(mut respond) = self.respond.take() {
            let mut response = Response::new(());
            trailers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            *response.headers_mut() = trailers;
            let _ = respond.send_response(response, true);
        }
    }

    /// End a call of which Python does not know.
    fn answer_here(self, method: usize, status: &Status) {
        self.shared.bridge.count(method, status.code);
        self.finish(status);
    }

    fn cancel(mut self) {
        if let Some(send) = &mut self.send {
            send.send_reset(Reason::CANCEL);
        } else if let Some(respond) = &mut self.respond {
            respond.send_reset(Reason::CANCEL);
        }
    }

    /// Answer what is not gRPC, after its body: answered within it, many a client of HTTP sees a broken stream instead.
    async fn refuse(mut self, code: StatusCode, mut body: RecvStream) {
        let mut room = self.shared.limits.message_bytes;
        let reading = async {
            while let Some(data) = body.data().await {
                let data = data.map_err(|_| ())?;
                let _ = body.flow_control().release_capacity(data.len());
                let Some(left) = room.checked_sub(data.len()) else { return Ok(()) };
                room = left;
            }
            body.trailers().await.map(|_| ()).map_err(|_| ())
        };
        // Where the caller has gone, there is nobody to answer.
        if timeout(self.shared.limits.patience(), reading).await == Ok(Err(())) {
            return;
        }
        if let Some(mut respond) = self.respond.take() {
            let mut response = Response::new(());
            *response.status_mut() = code;
            let _ = respond.send_response(response, true);
        }
    }
}

/// Wait until bytes may be sent; returns how many.
async fn capacity_of(send: &mut SendStream<Bytes>) -> Result<usize, ()> {
    loop {
        if send.capacity() > 0 {
            return Ok(send.capacity());
        }
        match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(_)) => {}
            _ => return Err(()),
        }
    }
}

/// An answer that waits for its caller to read.
struct Unread {
    peer: Arc<Peer>,
    len: usize,
    _hold: Hold,
}

impl Unread {
    /// Count one; None where there are too many, of the connection or in all: a lone one may have any size.
    fn new(shared: &Shared, peer: &Arc<Peer>, len: usize) -> Option<Self> {
        let mut hold = Hold::new(&shared.unread, peer.id);
        if !hold.grow(len) {
            return None;
        }
        let before = peer.unread.fetch_add(len, Relaxed);
        let unread = Self { peer: peer.clone(), len, _hold: hold };
        (before == 0 || before + len <= shared.limits.unread_bytes).then_some(unread)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.peer.unread.fetch_sub(self.len, Relaxed);
    }
}

/// Seconds as a duration; infinity and NaN mean forever.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(Duration::from_secs(30 * 365 * 86_400))
}

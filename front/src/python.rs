//! What Python sees of the server.

use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::bridge::{Answer, Bridge, Command, End, Event, Kind, Request};
use crate::call::seconds;
use crate::connection::{Limits, Peer, Shared};
use crate::lock::Lock;
use crate::message::{Content, Fault, prefix};
use crate::server::{Listener, Running};
use crate::status::Status;
use crate::tls::configure;

/// Bytes of an answer from which it is not copied, and Python hears when it is not needed any more.
const LARGE: usize = 4096;

/// Bytes of a request from which it becomes Python's bytes when it is read.
const READ_LATER: usize = 64 << 10;

type Metadata = Vec<(String, PyBackedBytes)>;

/// A gRPC server; see the stub file for what its methods take and return.
#[pyclass(frozen)]
struct Server {
    shared: Arc<Shared>,
    names: Vec<Py<PyString>>,
    running: Lock<Option<Running>>,
}

impl<'py> FromPyObject<'_, 'py> for Limits {
    type Error = PyErr;

    fn extract(found: pyo3::Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        fn get<'py, T: pyo3::conversion::FromPyObjectOwned<'py>>(found: &Bound<'py, PyAny>, name: &str) -> PyResult<T> {
            found.get_item(name)?.extract().map_err(Into::into)
        }
        let found = &*found;
        Ok(Self {
            message_bytes: get(found, "message_bytes")?,
            inflight_bytes: get(found, "inflight_bytes")?,
            unread_bytes: get(found, "unread_bytes")?,
            header_bytes: get(found, "header_bytes")?,
            connections: get(found, "connections")?,
            connections_of_peer: get(found, "connections_of_peer")?,
            streams: get(found, "streams")?,
            resets_per_second: get(found, "resets_per_second")?,
            frames_per_second: get(found, "frames_per_second")?,
            handshake_seconds: get(found, "handshake_seconds")?,
            idle_seconds: get(found, "idle_seconds")?,
            patience_seconds: get(found, "patience_seconds")?,
            connection_seconds: get(found, "connection_seconds")?,
            connection_grace_seconds: get(found, "connection_grace_seconds")?,
        })
    }
}

#[pymethods]
impl Server {
    #[new]
    fn new(
        py: Python<'_>,
        methods: Vec<(String, u8)>,
        metadata: Vec<String>,
        limits: Limits,
        waiting: usize,
    ) -> PyResult<Self> {
        let mut kinds = HashMap::new();
        for (place, (path, kind)) in methods.into_iter().enumerate() {
            let kind = match kind {
                0 => Kind::Unary,
                1 => Kind::Whole,
                2 => Kind::Stream,
                _ => return Err(PyValueError::new_err("the kind of a method is 0, 1 or 2")),
            };
            kinds.insert(path, (place, kind));
        }
        let names = metadata.iter().map(|name| PyString::intern(py, name).unbind()).collect();
        let shared = Shared::new(limits, kinds, metadata, waiting).map_err(PyOSError::new_err)?;
        Ok(Self { shared, names, running: Lock::default() })
    }

    #[pyo3(signature = (fds, *, unix=false, chain=None, key=None, client_ca=None, threads=1))]
    fn start(
        &self,
        fds: Vec<RawFd>,
        unix: bool,
        chain: Option<&[u8]>,
        key: Option<&[u8]>,
        client_ca: Option<&[u8]>,
        threads: usize,
    ) -> PyResult<()> {
        // SAFETY: the caller gives the descriptors away, as the stub file says.
        let fds = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let listeners: Vec<_> =
            fds.map(|fd| if unix { Listener::Unix(fd.into()) } else { Listener::Tcp(fd.into()) }).collect();
        let tls = match (chain, key) {
            (Some(chain), Some(key)) => Some(configure(chain, key, client_ca).map_err(PyValueError::new_err)?),
            _ => None,
        };
        let running = Running::start(self.shared.clone(), listeners, tls, threads).map_err(PyOSError::new_err)?;
        *self.running.lock() = Some(running);
        Ok(())
    }

    fn exchange(&self, chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> PyResult<()> {
        let tls = configure(chain, key, client_ca).map_err(PyValueError::new_err)?;
        if let Some(running) = &*self.running.lock() {
            running.exchange(tls);
        }
        Ok(())
    }

    fn recv_batch<'py>(&self, py: Python<'py>, max: usize) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some(batch) = py.detach(|| self.shared.bridge.take(max)) else { return Ok(None) };
        let now = Instant::now();
        let calls = PyList::empty(py);
        for request in batch.calls {
            calls.append(self.call_of(py, request, now, READ_LATER)?)?;
        }
        let ended = (batch.gone, batch.read, batch.dropped);
        (calls, ended.0, ended.1, ended.2).into_pyobject(py).map(Some)
    }

    fn respond(&self, py: Python<'_>, numbers: Vec<u64>, messages: Vec<Bound<'_, PyBytes>>) {
        let ends: Vec<_> = numbers
            .iter()
            .zip(&messages)
            .map(|(number, message)| answer_of(message, Some((*number, &self.shared.bridge))))
            .collect();
        let bridge = &self.shared.bridge;
        py.detach(move || {
            for (place, answer) in bridge.answers(&numbers).into_iter().zip(ends) {
                if let Some(place) = place {
                    let _ = place.send(End::Answer(answer));
                }
            }
        });
    }

    fn fail(&self, number: u64, code: u8, message: String, metadata: Metadata) {
        for place in self.shared.bridge.answers(&[number]).into_iter().flatten() {
            let _ = place.send(End::Failure(status_of(code, message.clone(), &metadata)));
        }
    }

    #[getter]
    fn events_fd(&self) -> RawFd {
        self.shared.bridge.watched()
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let Some(events) = py.detach(|| self.shared.bridge.take_events()) else { return Ok(None) };
        let now = Instant::now();
        let found = PyList::empty(py);
        for event in events {
            let event = match event {
                Event::Open(request) => {
                    let number = request.arrival.number;
                    ("open", number, self.call_of(py, request, now, usize::MAX)?).into_pyobject(py)?
                }
                Event::Message(number, content) => ("message", number, bytes_of(py, content)?).into_pyobject(py)?,
                Event::HalfClosed(number) => ("end", number, py.None()).into_pyobject(py)?,
                Event::Writable(number) => ("writable", number, py.None()).into_pyobject(py)?,
                Event::Gone(number, code) => ("gone", number, code).into_pyobject(py)?,
            };
            found.append(event)?;
        }
        Ok(Some(found))
    }

    fn consume(&self, number: u64, count: usize) {
        self.shared.bridge.consume(number, count);
    }

    fn send_headers(&self, number: u64, metadata: Metadata) {
        self.shared.bridge.command(number, Command::Headers(owned(&metadata)));
    }

    fn send(&self, number: u64, message: &Bound<'_, PyBytes>) -> bool {
        self.shared.bridge.command(number, Command::Message(answer_of(message, None)))
    }

    fn finish(&self, number: u64, code: u8, message: String, metadata: Metadata) {
        self.shared.bridge.command(number, Command::Finish(status_of(code, message, &metadata)));
    }

    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = &self.shared.counts;
        let found = PyDict::new(py);
        found.set_item("open", counts.open.load(Relaxed))?;
        for (name, count) in [
            ("connections", &counts.connections),
            ("connections_of_peer", &counts.connections_of_peer),
            ("handshake", &counts.handshake),
            ("headers", &counts.headers),
            ("resets", &counts.resets),
            ("frames", &counts.frames),
            ("unread", &counts.unread),
        ] {
            found.set_item(name, count.load(Relaxed))?;
        }
        Ok(found)
    }

    fn stop(&self, py: Python<'_>, grace: f64) {
        let running = self.running.lock().take();
        py.detach(|| match running {
            Some(running) => running.stop(seconds(grace)),
            None => self.shared.bridge.close(),
        });
    }
}

impl Server {
    fn call_of<'py>(
        &self,
        py: Python<'py>,
        request: Request,
        now: Instant,
        read_later: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let Request { arrival, content } = request;
        let (content, fault) = match content {
            Ok(Some(content)) if content.size() >= read_later => {
                (Some(Large::new(content).into_bound_py_any(py)?), None)
            }
            Ok(Some(content)) => (Some(bytes_of(py, content)?.into_any()), None),
            Ok(None) => (None, None),
            Err(Fault::TooLarge(size)) => (None, Some(("large", size))),
            Err(Fault::Late) => (None, Some(("late", 0))),
            Err(_) => (None, Some(("room", 0))),
        };
        let mut metadata = Vec::with_capacity(arrival.metadata.len());
        for (place, value) in &arrival.metadata {
            let value = match std::str::from_utf8(value) {
                Ok(text) => PyString::new(py, text).into_any(),
                Err(_) => PyBytes::new(py, value).into_any(),
            };
            metadata.push((self.names[*place].bind(py), value));
        }
        let waited = now.saturating_duration_since(arrival.arrived).as_secs_f64();
        let timeout = arrival.timeout.map(|timeout| timeout.as_secs_f64());
        let peer = peer_of(py, &arrival.peer)?;
        let metadata = PyTuple::new(py, metadata)?;
        (arrival.number, arrival.method, content, fault, waited, timeout, metadata, peer).into_pyobject(py)
    }
}

/// Return the address of a peer and its certificate, always the same objects.
fn peer_of<'py>(py: Python<'py>, peer: &Peer) -> PyResult<Bound<'py, PyAny>> {
    if let Some(found) = peer.python.get().and_then(|found| found.downcast_ref::<Py<PyAny>>()) {
        return Ok(found.bind(py).clone());
    }
    let certificate = peer.certificate.as_ref().map(|der| PyBytes::new(py, der));
    let made = (peer.id, &peer.name, certificate).into_pyobject(py)?.into_any();
    // Nobody else sets it, since that takes Python's lock.
    let _ = peer.python.set(Box::new(made.clone().unbind()));
    Ok(made)
}

/// A large request: copying it to Python's bytes takes milliseconds, which whoever receives calls does not have.
#[pyclass(frozen)]
struct Large {
    size: usize,
    content: Lock<Option<Content>>,
}

impl Large {
    fn new(content: Content) -> Self {
        Self { size: content.size(), content: Lock::new(Some(content)) }
    }
}

#[pymethods]
impl Large {
    fn __len__(&self) -> usize {
        self.size
    }

    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let content = self.content.lock().take();
        bytes_of(py, content.ok_or_else(|| PyRuntimeError::new_err("a request is read once"))?)
    }
}

/// Return a message as Python's bytes: a large one is copied without Python's lock, piece by piece.
fn bytes_of(py: Python<'_>, content: Content) -> PyResult<Bound<'_, PyBytes>> {
    let len = content.size();
    // SAFETY: the new object has room for as many bytes as there are, nobody else has it before they are written, and it
    // does not move.
    unsafe {
        let bytes = pyo3::ffi::PyBytes_FromStringAndSize(std::ptr::null(), isize::try_from(len)?);
        let bytes = Bound::from_owned_ptr_or_err(py, bytes)?;
        let mut place = pyo3::ffi::PyBytes_AsString(bytes.as_ptr()).cast::<u8>() as usize;
        let copy = || {
            content.drain(|piece| {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), place as *mut u8, piece.len());
                place += piece.len();
            });
        };
        if len < READ_LATER {
            copy();
        } else {
            py.detach(copy);
        }
        Ok(bytes.cast_into_unchecked())
    }
}

/// Return an answer with its prefix; a small one is copied, of a large one Python hears when it is not needed any more.
fn answer_of(message: &Bound<'_, PyBytes>, sender: Option<(u64, &Arc<Bridge>)>) -> Answer {
    let content = message.as_bytes();
    let head = prefix(content.len());
    if content.len() <= LARGE {
        let mut whole = Vec::with_capacity(head.len() + content.len());
        whole.extend_from_slice(&head);
        whole.extend_from_slice(content);
        return Answer { head: whole.into(), tail: Bytes::new() };
    }
    let sender = sender.map(|(number, bridge)| (number, bridge.clone()));
    let tail = Bytes::from_owner(Lent { content: Some(message.clone().into()), sender });
    Answer { head: Bytes::copy_from_slice(&head), tail }
}

/// A large answer, which is Python's.
struct Lent {
    content: Option<PyBackedBytes>,
    sender: Option<(u64, Arc<Bridge>)>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.content.as_deref().unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // First: Python frees it when it next looks at what has happened.
        self.content = None;
        if let Some((number, bridge)) = self.sender.take() {
            bridge.note_read(number);
        }
    }
}

fn owned(metadata: &Metadata) -> Vec<(String, Vec<u8>)> {
    metadata.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect()
}

fn status_of(code: u8, message: String, metadata: &Metadata) -> Status {
    Status { code, message, metadata: owned(metadata) }
}

/// The module that Python imports.
#[pymodule]
fn prinz_enricher_front(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Server>().map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

//! How a call ends, as gRPC writes it in trailers; and the deadline, as gRPC writes it in headers.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::message::Fault;

pub const CANCELLED: u8 = 1;
pub const DEADLINE_EXCEEDED: u8 = 4;
pub const RESOURCE_EXHAUSTED: u8 = 8;
pub const UNIMPLEMENTED: u8 = 12;
pub const INTERNAL: u8 = 13;

/// A deadline of more than a century is none.
const MAX_SECONDS: u64 = 100 * 366 * 86_400;

/// The end of a call; metadata has its values as they are, to be written in base64 where the name ends with -bin.
#[derive(Clone, Default)]
pub struct Status {
    pub code: u8,
    pub message: String,
    pub metadata: Vec<(String, Vec<u8>)>,
}

impl Status {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), metadata: Vec::new() }
    }

    pub fn of(fault: Fault, limit: usize) -> Self {
        match fault {
            Fault::TooLarge(size) => {
                Self::new(RESOURCE_EXHAUSTED, format!("a message has {size} bytes; at most {limit} are allowed"))
            }
            Fault::NoRoom => Self::new(RESOURCE_EXHAUSTED, "messages of too many bytes are being received"),
            Fault::Late => Self::new(RESOURCE_EXHAUSTED, "the request did not come in time"),
            Fault::Malformed(why) => Self::new(INTERNAL, why),
            Fault::UnknownCompression => {
                Self::new(UNIMPLEMENTED, "only gzip and deflate are supported as grpc-encoding")
            }
            Fault::Gone => Self::new(CANCELLED, ""),
        }
    }

    /// Write it into headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.code)));
        if !self.message.is_empty() {
            if let Ok(text) = HeaderValue::try_from(encode_text(&self.message)) {
                headers.insert("grpc-message", text);
            }
        }
        write_metadata(&self.metadata, headers);
    }
}

pub fn write_metadata(metadata: &[(String, Vec<u8>)], headers: &mut HeaderMap) {
    for (name, value) in metadata {
        let encoded = if name.ends_with("-bin") {
            HeaderValue::try_from(STANDARD_NO_PAD.encode(value))
        } else {
            HeaderValue::from_bytes(value)
        };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), encoded) {
            headers.append(name, value);
        }
    }
}

/// Return a text as `grpc-message` has it: what is not printable ASCII, and %, by its bytes in hexadecimal.
fn encode_text(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Return the value of `grpc-timeout`; None where it is not one.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs((number * 3600).min(MAX_SECONDS)),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout(b"0n"), Some(Duration::ZERO));
        assert_eq!(parse_timeout(b"99999999H"), Some(Duration::from_secs(MAX_SECONDS)));
        for wrong in [&b""[..], b"m", b"1", b"-1S", b"123456789S", b"1 S", b"1s", b"1.5S"] {
            assert_eq!(parse_timeout(wrong), None);
        }
    }

    #[test]
    fn statuses_are_written() {
        let metadata = vec![("x-bin".into(), vec![0, 255]), ("y".into(), b"250".to_vec()), ("bad name".into(), vec![])];
        let mut headers = HeaderMap::new();
        Status { code: 5, message: "wíne 100%\n".into(), metadata }.write(&mut headers);
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text("grpc-status").as_deref(), Some("5"));
        assert_eq!(text("grpc-message").as_deref(), Some("w%C3%ADne 100%25%0A"));
        assert_eq!(text("x-bin").as_deref(), Some("AP8"));
        assert_eq!(text("y").as_deref(), Some("250"));
        assert_eq!(headers.len(), 4);
    }

    proptest! {
        #[test]
        fn any_text_can_be_written(message in any::<String>(), value in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut headers = HeaderMap::new();
            Status { code: 2, message, metadata: vec![("a-bin".into(), value.clone()), ("b".into(), value)] }.write(&mut headers);
            prop_assert!(headers.contains_key("a-bin"));
        }

        #[test]
        fn no_timeout_is_too_odd(value in prop::collection::vec(any::<u8>(), 0..12)) {
            parse_timeout(&value);
        }
    }
}

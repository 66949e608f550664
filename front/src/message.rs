//! gRPC's messages on the wire: five bytes of prefix and the content, in pieces of any size; and their compression.

use std::io::Write;

use flate2::write::{GzDecoder, ZlibDecoder};

use crate::budget::{Hold, SMALL};

/// Bytes of the first piece of memory for a message, and of the largest.
const FIRST_PIECE: usize = 16 << 10;
const LARGEST_PIECE: usize = 256 << 10;

/// Compressed bytes that are taken in one go: they become a thousand times as many at most.
const COMPRESSED_PIECE: usize = 128;

/// Bytes of a message, as it came or decompressed, after which others get a turn.
const TURN: usize = 64 << 10;

/// Why a message is not received.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Fault {
    /// It has so many bytes, or has already become as many by decompression.
    TooLarge(usize),
    /// All messages that are being received have as many bytes as they may.
    NoRoom,
    /// It did not come in time.
    Late,
    /// It is not what gRPC's protocol allows; why.
    Malformed(&'static str),
    /// Its compression is not known here.
    UnknownCompression,
    /// Its caller has gone.
    Gone,
}

/// How messages of a call may be compressed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Unknown,
}

impl Encoding {
    pub fn of(name: Option<&[u8]>) -> Self {
        match name {
            None | Some(b"identity") => Self::Identity,
            Some(b"gzip") => Self::Gzip,
            Some(b"deflate") => Self::Deflate,
            Some(_) => Self::Unknown,
        }
    }
}

/// The content of a message, in pieces, so that it can be copied without being there twice.
pub struct Content {
    pieces: Vec<Vec<u8>>,
    len: usize,
    hold: Option<Hold>,
}

impl Content {
    pub fn new(hold: Hold) -> Self {
        Self { pieces: Vec::new(), len: 0, hold: Some(hold) }
    }

    pub fn size(&self) -> usize {
        self.len
    }

    /// Add bytes of a message that has `size` in all, as far as that is known, and return how many: memory is taken as
    /// they come, and only while there is room.
    fn push(&mut self, data: &[u8], size: usize) -> usize {
        let mut left = data;
        while !left.is_empty() {
            let room = self.pieces.last().map_or(0, |piece| piece.capacity() - piece.len());
            if room == 0 {
                let next = self.pieces.last().map_or(FIRST_PIECE, |piece| 2 * piece.capacity());
                let next = next.min(LARGEST_PIECE).min(size - self.len);
                let mut piece = Vec::new();
                let counts = size > SMALL;
                if (counts && !self.hold.as_mut().is_some_and(|hold| hold.grow(next)))
                    || piece.try_reserve_exact(next).is_err()
                {
                    break;
                }
                self.pieces.push(piece);
                continue;
            }
            let (now, later) = left.split_at(room.min(left.len()));
            if let Some(piece) = self.pieces.last_mut() {
                piece.extend_from_slice(now);
            }
            self.len += now.len();
            left = later;
        }
        data.len() - left.len()
    }

    /// Take what it holds of the limit on bytes, to be held by another.
    pub fn take_hold(&mut self) -> Option<Hold> {
        self.hold.take()
    }

    /// Hand each piece to a function, and free it then.
    pub fn drain(self, mut take: impl FnMut(&[u8])) {
        for piece in self.pieces {
            take(&piece);
        }
    }

    #[cfg(test)]
    pub fn to_vec(self) -> Vec<u8> {
        let mut all = Vec::new();
        self.drain(|piece| all.extend_from_slice(piece));
        all
    }
}

/// A message as it came, maybe compressed.
pub struct Message {
    pub compressed: bool,
    pub content: Content,
}

/// Reads messages out of the bytes of a call.
pub struct Reader {
    limit: usize,
    prefix: [u8; 5],
    have: usize,
    left: usize,
    size: usize,
    content: Option<Content>,
}

impl Reader {
    pub fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; 5], have: 0, left: 0, size: 0, content: None }
    }

    /// Whether the bytes so far end with a whole message, or there were none.
    pub fn is_between(&self) -> bool {
        self.have == 0
    }

    /// The size of the message that is being received, once it is known.
    pub fn announced(&self) -> Option<usize> {
        (self.have == 5).then_some(self.size)
    }

    /// Take bytes off the front of `data`; returns a message once it is whole. Without room for all of them it takes a
    /// part, and may be asked again later.
    pub fn take(&mut self, data: &mut &[u8], hold: impl FnOnce() -> Hold) -> Result<Option<Message>, Fault> {
        if self.have < 5 {
            let count = data.len().min(5 - self.have);
            let (now, later) = data.split_at(count);
            self.prefix[self.have..self.have + count].copy_from_slice(now);
            self.have += count;
            *data = later;
            if self.have < 5 {
                return Ok(None);
            }
            let [flag, length @ ..] = self.prefix;
            if flag > 1 {
                return Err(Fault::Malformed("a message's flag is neither 0 nor 1"));
            }
            self.size = u32::from_be_bytes(length) as usize;
            if self.size > self.limit {
                return Err(Fault::TooLarge(self.size));
            }
            self.left = self.size;
            self.content = Some(Content::new(hold()));
        }
        let now = &data[..self.left.min(data.len())];
        let pushed = self.content.as_mut().map_or(0, |content| content.push(now, self.size));
        let whole = pushed == now.len();
        *data = &data[pushed..];
        self.left -= pushed;
        if !whole {
            return Err(Fault::NoRoom);
        }
        if self.left > 0 {
            return Ok(None);
        }
        self.have = 0;
        Ok(self.content.take().map(|content| Message { compressed: self.prefix[0] == 1, content }))
    }
}

/// What a decompressor writes to: it ends where there is no room.
struct Sink {
    content: Content,
    limit: usize,
    fault: Option<Fault>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let size = self.content.size() + data.len();
        if size > self.limit {
            self.fault = Some(Fault::TooLarge(size));
        // How large it becomes is not known, so each byte counts.
        } else if self.content.push(data, usize::MAX) < data.len() {
            self.fault = Some(Fault::NoRoom);
        } else {
            return Ok(data.len());
        }
        Err(std::io::ErrorKind::OutOfMemory.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Gzip(GzDecoder<Sink>),
    Deflate(ZlibDecoder<Sink>),
}

impl Decoder {
    fn sink(&self) -> &Sink {
        match self {
            Self::Gzip(gzip) => gzip.get_ref(),
            Self::Deflate(deflate) => deflate.get_ref(),
        }
    }

    fn fault(&self) -> Fault {
        self.sink().fault.unwrap_or(Fault::Malformed(DAMAGED))
    }
}

/// Return the content of a message, decompressed where it is compressed; others get a turn meanwhile.
pub async fn open(message: Message, encoding: Encoding, limit: usize, hold: Hold) -> Result<Content, Fault> {
    if !message.compressed {
        return Ok(message.content);
    }
    let sink = Sink { content: Content::new(hold), limit, fault: None };
    let mut decoder = match encoding {
        Encoding::Gzip => Decoder::Gzip(GzDecoder::new(sink)),
        Encoding::Deflate => Decoder::Deflate(ZlibDecoder::new(sink)),
        Encoding::Identity => return Err(Fault::Malformed("a message is compressed, but the call names no encoding")),
        Encoding::Unknown => return Err(Fault::UnknownCompression),
    };
    let Content { pieces, hold: _compressed, .. } = message.content;
    let mut turn = 0;
    for piece in pieces {
        for part in piece.chunks(COMPRESSED_PIECE) {
            let before = decoder.sink().content.size();
            let written = match &mut decoder {
                Decoder::Gzip(gzip) => gzip.write_all(part),
                Decoder::Deflate(deflate) => deflate.write_all(part),
            };
            if written.is_err() {
                return Err(decoder.fault());
            }
            turn += part.len() + decoder.sink().content.size() - before;
            if turn > TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    let finished = match &mut decoder {
        Decoder::Gzip(gzip) => gzip.try_finish(),
        Decoder::Deflate(deflate) => deflate.try_finish(),
    };
    if finished.is_err() {
        return Err(decoder.fault());
    }
    let sink = match decoder {
        Decoder::Gzip(gzip) => gzip.finish(),
        Decoder::Deflate(deflate) => deflate.finish(),
    };
    sink.map(|sink| sink.content).map_err(|_| Fault::Malformed(DAMAGED))
}

const DAMAGED: &str = "a message can't be decompressed";

/// Return the prefix of an answer of so many bytes.
pub fn prefix(length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::FairLimit;
    use proptest::prelude::*;

    fn hold() -> Hold {
        Hold::new(&FairLimit::new(1 << 30), 1)
    }

    fn framed(content: &[u8], flag: u8) -> Vec<u8> {
        let mut message = prefix(content.len()).to_vec();
        message[0] = flag;
        message.extend_from_slice(content);
        message
    }

    fn read_all(reader: &mut Reader, parts: &[&[u8]]) -> Result<Vec<(bool, Vec<u8>)>, Fault> {
        let mut found = Vec::new();
        for part in parts {
            let mut left = *part;
            loop {
                let before = left.len();
                if let Some(message) = reader.take(&mut left, hold)? {
                    found.push((message.compressed, message.content.to_vec()));
                } else if left.len() == before || left.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40_000), 0..2u8), 0..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let wire: Vec<u8> = messages.iter().flat_map(|(content, flag)| framed(content, *flag)).collect();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            places.extend([0, wire.len()]);
            places.sort_unstable();
            let parts: Vec<&[u8]> = places.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            let mut reader = Reader::new(40_000);
            let found = read_all(&mut reader, &parts).unwrap();
            prop_assert!(reader.is_between());
            let expected: Vec<_> = messages.into_iter().map(|(content, flag)| (flag == 1, content)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_bytes_are_too_odd(wire in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut reader = Reader::new(1_000);
            for (_, content) in read_all(&mut reader, &[&wire]).unwrap_or_default() {
                prop_assert!(content.len() <= 1_000);
            }
        }

        #[test]
        fn damaged_compression_is_a_fault(mut content in prop::collection::vec(any::<u8>(), 1..3_000), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&content).unwrap();
            let mut packed = gzip.finish().unwrap();
            let place = at.index(packed.len());
            packed[place] = to;
            // A few bytes of gzip's header mean nothing; else the checksum tells.
            if let Ok(found) = decompress(&packed, Encoding::Gzip, 4_000) {
                prop_assert_eq!(&found, &content);
            }
            content.clear();
        }
    }

    fn decompress(packed: &[u8], encoding: Encoding, limit: usize) -> Result<Vec<u8>, Fault> {
        let wire = framed(packed, 1);
        let mut reader = Reader::new(1 << 20);
        let message = reader.take(&mut wire.as_slice(), hold)?.unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(open(message, encoding, limit, hold())).map(Content::to_vec)
    }

    #[test]
    fn compressed_messages_are_opened() {
        let content = vec![7; 100_000];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&content).unwrap();
        let zlib = zlib.finish().unwrap();
        assert_eq!(decompress(&gzip, Encoding::Gzip, 100_000), Ok(content.clone()));
        assert_eq!(decompress(&zlib, Encoding::Deflate, 100_000), Ok(content));
        assert!(matches!(decompress(&gzip, Encoding::Gzip, 99_999), Err(Fault::TooLarge(_))));
        assert!(matches!(decompress(&gzip[..gzip.len() - 1], Encoding::Gzip, 100_000), Err(Fault::Malformed(_))));
        assert!(matches!(decompress(&gzip, Encoding::Deflate, 100_000), Err(Fault::Malformed(_))));
        assert!(matches!(decompress(&gzip, Encoding::Identity, 100_000), Err(Fault::Malformed(_))));
        assert_eq!(decompress(&gzip, Encoding::Unknown, 100_000), Err(Fault::UnknownCompression));
    }

    #[test]
    fn too_large_is_said_before_it_comes() {
        let mut reader = Reader::new(10);
        assert!(matches!(reader.take(&mut &prefix(11)[..], hold), Err(Fault::TooLarge(11))));
        let mut reader = Reader::new(10);
        assert!(matches!(reader.take(&mut &[2, 0, 0, 0, 0][..], hold), Err(Fault::Malformed(_))));
    }

    #[test]
    fn memory_is_taken_as_bytes_come() {
        let limit = FairLimit::new(200_000);
        let mut other = Hold::new(&limit, 2);
        assert!(other.grow(200_000));
        let mut reader = Reader::new(1 << 20);
        let mut begin = prefix(1 << 20).to_vec();
        begin.extend([0; 10]);
        assert!(reader.take(&mut &begin[..], || Hold::new(&limit, 1)).is_ok());
        assert!(matches!(reader.take(&mut &[0; 100_000][..], || Hold::new(&limit, 1)), Err(Fault::NoRoom)));
    }
}

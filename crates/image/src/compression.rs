//! Compression: gzip, Zstandard or none, told apart by the first bytes, as media types are often wrong.

use std::io::{self, BufRead, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The plain bytes of a stream that may be compressed.
pub(crate) fn decompress<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    // One read may bring fewer than the four bytes that decide.
    let mut magic = Vec::with_capacity(4);
    (&mut input).take(4).read_to_end(&mut magic)?;
    let kind = Kind::of(&magic);
    let whole = Cursor::new(magic).chain(input);
    Ok(match kind {
        Kind::Plain => Box::new(whole),
        Kind::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Kind::Zstd => Box::new(Zstd { input: whole, decoder: FrameDecoder::new(), in_frame: false }),
        Kind::Unsupported(name) => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} compression is not supported")));
        }
    })
}

/// Whether a stream that begins so is not compressed, as far as we know.
pub(crate) fn is_plain(magic: &[u8]) -> bool {
    matches!(Kind::of(magic), Kind::Plain)
}

enum Kind {
    Plain,
    Gzip,
    Zstd,
    Unsupported(&'static str),
}

impl Kind {
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd, // a frame, or one to skip
            [0xfd, b'7', b'z', b'X'] => Self::Unsupported("xz"),
            [b'B', b'Z', b'h', _] => Self::Unsupported("bzip2"),
            _ => Self::Plain,
        }
    }
}

/// All frames of a Zstandard stream, those to skip left out.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; false at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.in_frame = false;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        }
    }
}

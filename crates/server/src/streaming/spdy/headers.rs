//! Header blocks: names and values, compressed with one zlib stream per direction of a connection.
//!
//! Invariant: [`Inflater`] holds at most [`LARGEST`] bytes of a block, however small it was compressed. After an error
//! the two sides no longer agree on the zlib stream, and the connection is to end.

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;

/// The largest block taken, before compression.
const LARGEST: usize = 64 * 1024;

/// Names, in lower case, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::streaming) struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    /// The value of `name`, which is in lower case.
    pub(in crate::streaming) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn parse(mut block: &[u8]) -> Option<Self> {
        let count = block.try_get_u32().ok()?;
        let text = |block: &mut &[u8]| {
            let size = usize::try_from(block.try_get_u32().ok()?).ok()?;
            let (text, rest) = block.split_at_checked(size)?;
            *block = rest;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            headers.push((name, text(&mut block)?));
        }
        Some(Self(headers))
    }

    fn block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        block.put_u32(u32::try_from(self.0.len()).expect("few headers"));
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(u32::try_from(text.len()).expect("short headers"));
            block.put_slice(text.as_bytes());
        }
        block
    }
}

/// Reads the blocks of the other side.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of a compressed block. None: it is none.
    pub(super) fn headers(&mut self, mut input: &[u8]) -> Option<Headers> {
        let mut block = Vec::with_capacity(1024);
        loop {
            if block.len() == block.capacity() {
                if block.len() >= LARGEST {
                    return None;
                }
                block.reserve(block.len());
            }
            let (read, written) = (self.0.total_in(), block.len());
            let result = self.0.decompress_vec(input, &mut block, FlushDecompress::Sync);
            input = &input[usize::try_from(self.0.total_in() - read).ok()?..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).ok()?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return None,
                Ok(Status::Ok | Status::BufError) => {}
            }
            let full = block.len() == block.capacity();
            if !full && (input.is_empty() || block.len() == written) {
                break;
            }
        }
        Headers::parse(&block)
    }
}

/// Writes our blocks.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).expect("nothing was compressed before");
        Self(compress)
    }

    pub(super) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.block();
        // Enough for what does not compress, and the marks of the stream and the flush.
        let mut out = Vec::with_capacity(block.len() + block.len() / 100 + 64);
        let before = self.0.total_in();
        loop {
            let used = usize::try_from(self.0.total_in() - before).expect("no more than the block");
            let flushed = self.0.compress_vec(&block[used..], &mut out, FlushCompress::Sync);
            flushed.expect("the stream is in order");
            if out.len() < out.capacity() {
                return out;
            }
            out.reserve(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn blocks_refer_to_those_before() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let first = headers(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]);
        let sizes: Vec<usize> = (0..3)
            .map(|_| {
                let block = deflater.block(&first);
                assert_eq!(inflater.headers(&block), Some(first.clone()));
                block.len()
            })
            .collect();
        assert!(sizes[1] < sizes[0], "{sizes:?}");
        assert_eq!(inflater.headers(&deflater.block(&headers(&[]))), Some(headers(&[])));
    }

    #[test]
    fn a_block_that_grows_without_bound_is_refused() {
        let value = "x".repeat(LARGEST * 4);
        let block = Deflater::new().block(&headers(&[("a", &value)]));
        assert!(block.len() < 4096);
        assert_eq!(Inflater::new().headers(&block), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_the_same(blocks in prop::collection::vec(
            prop::collection::vec(("[a-z:-]{0,20}", "\\PC{0,300}"), 0..8), 1..5
        )) {
            let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
            for block in blocks {
                let headers = Headers(block);
                prop_assert_eq!(inflater.headers(&deflater.block(&headers)), Some(headers));
            }
        }

        #[test]
        fn no_block_panics(block in prop::collection::vec(any::<u8>(), 0..600)) {
            Headers::parse(&block);
            Inflater::new().headers(&block);
        }
    }
}

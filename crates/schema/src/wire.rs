//! The wire format of protobuf: keys, numbers that vary in length, and lengths before bytes.
//!
//! Invariant: a [`Reader`] never reads past its bytes and always moves forward. Left out: messages, which
//! [`crate::protobuf`] reads by the table.

/// Reads the fields of one message.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

const CUT: &str = "it ends in the middle of a member";

/// How deep groups, which no type has, may be nested in what is skipped.
const GROUPS: u32 = 16;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next member's number and wire type; `None` at the end.
    pub(crate) fn key(&mut self) -> Result<Option<(u32, u8)>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0).ok_or("a member has an impossible number")?;
        let wire = u8::try_from(key & 7).expect("three bits are a byte");
        if wire > 5 { Err("a member has an unknown wire type") } else { Ok(Some((tag, wire))) }
    }

    pub(crate) fn varint(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(CUT)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number is too long")
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a string is not UTF-8")
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Passes over a member that is not known.
    pub(crate) fn skip(&mut self, tag: u32, wire: u8) -> Result<(), &'static str> {
        self.skip_within(tag, wire, GROUPS)
    }

    fn skip_within(&mut self, tag: u32, wire: u8, depth: u32) -> Result<(), &'static str> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.fixed::<8>().map(drop),
            2 => self.bytes().map(drop),
            5 => self.fixed::<4>().map(drop),
            3 => {
                let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
                loop {
                    match self.key()?.ok_or(CUT)? {
                        (end, 4) if end == tag => return Ok(()),
                        (inner, wire) => self.skip_within(inner, wire, depth)?,
                    }
                }
            }
            _ => Err("a group ends that has not begun"),
        }
    }
}

/// Writes the fields of messages.
#[derive(Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl From<Vec<u8>> for Writer {
    fn from(out: Vec<u8>) -> Self {
        Writer { out }
    }
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn varint(&mut self, tag: u32, number: u64) {
        self.key(tag, 0);
        self.number(number);
    }

    pub(crate) fn double(&mut self, tag: u32, number: f64) {
        self.key(tag, 1);
        self.raw(&number.to_bits().to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.key(tag, 2);
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    pub(crate) fn message(&mut self, tag: u32, fill: impl FnOnce(&mut Writer)) {
        let done: Result<(), std::convert::Infallible> = self.try_message(tag, |out| {
            fill(out);
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// Writes a message in place. Its length comes before it and is known after it: one byte is kept, which is enough
    /// for most, and a longer message moves to make room.
    pub(crate) fn try_message<E>(
        &mut self,
        tag: u32,
        fill: impl FnOnce(&mut Writer) -> Result<(), E>,
    ) -> Result<(), E> {
        self.key(tag, 2);
        let start = self.out.len();
        self.out.push(0);
        fill(self)?;
        let length = self.out.len() - start - 1;
        if let Some(short) = u8::try_from(length).ok().filter(|length| *length < 0x80) {
            self.out[start] = short;
            return Ok(());
        }
        let mut prefix = Writer::default();
        prefix.number(length as u64);
        self.out.splice(start..=start, prefix.out);
        Ok(())
    }

    fn key(&mut self, tag: u32, wire: u64) {
        self.number(u64::from(tag) << 3 | wire);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.out.push(number.to_le_bytes()[0]);
    }
}

//! The protocol of a connection without its socket: bytes in, events and bytes out.
//!
//! ```text
//!  control  1│version 15│type 16│flags 8│length 24│ payload
//!  data     0│stream 31         │flags 8│length 24│ bytes
//!
//!                 SYN_STREAM            FIN from either side          FIN from the other, or RST_STREAM
//!  (no stream) ───────────────▶ open ───────────────────────▶ half ────────────────────────────────────▶ (no stream)
//! ```
//!
//! Upstream: the SPDY/3.1 specification; `moby/spdystream`, of which every kubectl has the other end.
//!
//! Invariant: whatever comes in, memory is bounded: a frame's payload is kept only if it is one of control, of at most
//! [`LARGEST`] bytes, and there are at most [`MOST`] streams. Data is passed on in the pieces that it comes in.
//! Left out: windows. The other end neither keeps nor announces them; what slows a sender down is TCP. Streams that we
//! open, for there are none.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Deflater, Headers, Inflater};

/// The largest control frame that is taken.
const LARGEST: usize = 64 * 1024;
/// How many streams there may be at once.
const MOST: usize = 256;
/// The most bytes in a frame of ours.
const PIECE: usize = 32 * 1024;

const FIN: u8 = 0x01;
const UNIDIRECTIONAL: u8 = 0x02;

const PROTOCOL_ERROR: u32 = 1;
const INVALID_STREAM: u32 = 2;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;
const STREAM_ALREADY_CLOSED: u32 = 9;

/// What the client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It opened a stream, and was told that it is there.
    Opened(u32, Headers),
    /// It sent bytes.
    Data(u32, Bytes),
    /// It sends no more into a stream.
    Finished(u32),
    /// It wants no more of a stream at all.
    Reset(u32),
}

/// The client does not speak the protocol. The connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("a control frame of version {0}")]
    Version(u16),
    #[error("a control frame of type {kind} with {size} bytes")]
    Size { kind: u16, size: usize },
    #[error("a block of headers that can't be read")]
    Headers,
    #[error("a new stream {0} after stream {1}")]
    Order(u32, u32),
}

/// One side of a stream each: whether it may still send.
#[derive(Clone, Copy, Debug)]
struct Sides {
    ours: bool,
    theirs: bool,
}

/// What the next bytes belong to.
#[derive(Debug)]
enum Reading {
    /// The head of a frame.
    Head,
    /// The payload of a control frame.
    Control { kind: u16, flags: u8, size: usize },
    /// What is left of a data frame.
    Data { stream: u32, fin: bool, left: usize },
    /// What is left of a frame that means nothing to us.
    Skip { left: usize },
}

/// A connection to a client that opens streams.
pub(super) struct Connection {
    reading: Reading,
    /// The beginning of a head or a control frame.
    partial: BytesMut,
    inflater: Inflater,
    deflater: Deflater,
    streams: BTreeMap<u32, Sides>,
    /// The newest stream that the client has opened.
    newest: u32,
    /// What is to be sent.
    pub(super) out: BytesMut,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            reading: Reading::Head,
            partial: BytesMut::new(),
            inflater: Inflater::new(),
            deflater: Deflater::new(),
            streams: BTreeMap::new(),
            newest: 0,
            out: BytesMut::new(),
        }
    }

    /// Takes `input`; what it means is appended to `events`, and what is to be answered to `out`.
    pub(super) fn receive(&mut self, mut input: Bytes, events: &mut VecDeque<Event>) -> Result<(), Broken> {
        // Ends, since every step takes input or leaves a frame; an empty payload needs none.
        loop {
            match self.reading {
                Reading::Head => {
                    if !self.gather(&mut input, 8) {
                        return Ok(());
                    }
                    self.head()?;
                }
                Reading::Control { kind, flags, size } => {
                    if !self.gather(&mut input, size) {
                        return Ok(());
                    }
                    let payload = self.partial.split().freeze();
                    self.reading = Reading::Head;
                    self.control(kind, flags, payload, events)?;
                }
                Reading::Data { stream, fin, left } => {
                    if left > 0 && input.is_empty() {
                        return Ok(());
                    }
                    let piece = input.split_to(left.min(input.len()));
                    let left = left - piece.len();
                    self.reading = if left == 0 { Reading::Head } else { Reading::Data { stream, fin, left } };
                    self.data(stream, piece, fin && left == 0, left == 0, events);
                }
                Reading::Skip { left } => {
                    if left > 0 && input.is_empty() {
                        return Ok(());
                    }
                    let skipped = left.min(input.len());
                    input.advance(skipped);
                    let left = left - skipped;
                    self.reading = if left == 0 { Reading::Head } else { Reading::Skip { left } };
                }
            }
        }
    }

    /// Whether `partial` has `size` bytes, of which it lacks none that `input` can give.
    fn gather(&mut self, input: &mut Bytes, size: usize) -> bool {
        let wanted = size - self.partial.len();
        self.partial.extend_from_slice(&input.split_to(wanted.min(input.len())));
        self.partial.len() == size
    }

    fn head(&mut self) -> Result<(), Broken> {
        let mut head = self.partial.split();
        let first = head.get_u32();
        let second = head.get_u32();
        let flags = u8::try_from(second >> 24).expect("eight bits");
        let size = usize::try_from(second & 0x00ff_ffff).expect("24 bits");
        if first & 0x8000_0000 == 0 {
            self.reading = Reading::Data { stream: first, fin: flags & FIN != 0, left: size };
            return Ok(());
        }
        let version = u16::try_from((first >> 16) & 0x7fff).expect("15 bits");
        let kind = u16::try_from(first & 0xffff).expect("16 bits");
        if version != 3 {
            return Err(Broken::Version(version));
        }
        let fits = match kind {
            1 => (10..=LARGEST).contains(&size),
            2 | 4 | 8 => (4..=LARGEST).contains(&size),
            3 | 7 | 9 => size == 8,
            6 => size == 4,
            _ => {
                self.reading = Reading::Skip { left: size };
                return Ok(());
            }
        };
        if !fits {
            return Err(Broken::Size { kind, size });
        }
        self.reading = Reading::Control { kind, flags, size };
        Ok(())
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        mut payload: Bytes,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Broken> {
        // SETTINGS (4), GOAWAY (7) and WINDOW_UPDATE (9) change nothing here.
        match kind {
            1 => {
                let stream = payload.get_u32() & 0x7fff_ffff;
                payload.advance(6);
                let headers = self.inflater.headers(&payload).ok_or(Broken::Headers)?;
                self.open(stream, flags, headers, events)?;
            }
            2 | 8 => {
                let stream = payload.get_u32() & 0x7fff_ffff;
                self.inflater.headers(&payload).ok_or(Broken::Headers)?;
                if flags & FIN != 0 && self.streams.get(&stream).is_some_and(|sides| sides.theirs) {
                    self.finish_theirs(stream, events);
                }
            }
            3 => {
                let stream = payload.get_u32() & 0x7fff_ffff;
                if self.streams.remove(&stream).is_some() {
                    events.push_back(Event::Reset(stream));
                }
            }
            6 => {
                let id = payload.get_u32();
                // Clients count by odd numbers; an even one would answer a ping of ours.
                if id % 2 == 1 {
                    self.frame(6, 0, &id.to_be_bytes());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, stream: u32, flags: u8, headers: Headers, events: &mut VecDeque<Event>) -> Result<(), Broken> {
        if stream.is_multiple_of(2) || stream <= self.newest {
            return Err(Broken::Order(stream, self.newest));
        }
        self.newest = stream;
        if self.streams.len() >= MOST {
            self.rst(stream, REFUSED_STREAM);
            return Ok(());
        }
        let sides = Sides { ours: flags & UNIDIRECTIONAL == 0, theirs: true };
        self.streams.insert(stream, sides);
        let mut reply = stream.to_be_bytes().to_vec();
        reply.extend(self.deflater.block(&Headers::default()));
        self.frame(2, if sides.ours { 0 } else { FIN }, &reply);
        events.push_back(Event::Opened(stream, headers));
        if flags & FIN != 0 {
            self.finish_theirs(stream, events);
        }
        Ok(())
    }

    fn data(&mut self, stream: u32, piece: Bytes, fin: bool, last: bool, events: &mut VecDeque<Event>) {
        match self.streams.get(&stream) {
            Some(sides) if sides.theirs => {
                if !piece.is_empty() {
                    events.push_back(Event::Data(stream, piece));
                }
                if fin {
                    self.finish_theirs(stream, events);
                }
            }
            // One answer per frame.
            Some(_) if last => self.rst(stream, STREAM_ALREADY_CLOSED),
            None if last && stream > self.newest => self.rst(stream, INVALID_STREAM),
            // To a stream that has just ended, which the client may not know yet; or not the frame's end.
            _ => {}
        }
    }

    fn finish_theirs(&mut self, stream: u32, events: &mut VecDeque<Event>) {
        events.push_back(Event::Finished(stream));
        self.close_side(stream, |sides| sides.theirs = false);
    }

    fn close_side(&mut self, stream: u32, close: impl FnOnce(&mut Sides)) {
        if let Some(sides) = self.streams.get_mut(&stream) {
            close(sides);
            if !sides.ours && !sides.theirs {
                self.streams.remove(&stream);
            }
        }
    }

    /// Sends `bytes`, unless our side of the stream is closed.
    pub(super) fn send(&mut self, stream: u32, bytes: &[u8]) {
        if self.streams.get(&stream).is_some_and(|sides| sides.ours) {
            for piece in bytes.chunks(PIECE) {
                self.data_frame(stream, 0, piece);
            }
        }
    }

    /// Closes our side of a stream.
    pub(super) fn finish(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|sides| sides.ours) {
            self.data_frame(stream, FIN, &[]);
            self.close_side(stream, |sides| sides.ours = false);
        }
    }

    /// Ends both sides of a stream.
    pub(super) fn reset(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.rst(stream, CANCEL);
        }
    }

    /// Says that no further stream will be taken: all went well, or the client is `broken`.
    pub(super) fn go_away(&mut self, broken: bool) {
        let mut payload = self.newest.to_be_bytes().to_vec();
        payload.extend(if broken { PROTOCOL_ERROR } else { 0 }.to_be_bytes());
        self.frame(7, 0, &payload);
    }

    fn rst(&mut self, stream: u32, status: u32) {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend(status.to_be_bytes());
        self.frame(3, 0, &payload);
    }

    fn frame(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        self.out.put_u16(0x8003);
        self.out.put_u16(kind);
        self.rest(flags, payload);
    }

    fn data_frame(&mut self, stream: u32, flags: u8, bytes: &[u8]) {
        self.out.put_u32(stream);
        self.rest(flags, bytes);
    }

    fn rest(&mut self, flags: u8, payload: &[u8]) {
        let size = u32::try_from(payload.len()).expect("our frames are short");
        self.out.put_u32(u32::from(flags) << 24 | size);
        self.out.put_slice(payload);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The other end, which only writes.
    struct Client(Deflater);

    impl Client {
        fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
            let mut frame = vec![0x80, 3];
            frame.extend(kind.to_be_bytes());
            frame.extend((u32::from(flags) << 24 | u32::try_from(payload.len()).unwrap()).to_be_bytes());
            frame.extend(payload);
            frame
        }

        fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
            let mut frame = stream.to_be_bytes().to_vec();
            frame.extend((u32::from(flags) << 24 | u32::try_from(bytes.len()).unwrap()).to_be_bytes());
            frame.extend(bytes);
            frame
        }

        fn syn(&mut self, stream: u32, flags: u8, kind: &str) -> Vec<u8> {
            let mut payload = stream.to_be_bytes().to_vec();
            payload.extend([0; 6]);
            payload.extend(self.0.block(&named(kind)));
            Self::control(1, flags, &payload)
        }
    }

    fn named(kind: &str) -> Headers {
        Headers(vec![("streamtype".into(), kind.into())])
    }

    fn take(connection: &mut Connection, bytes: &[u8]) -> Result<Vec<Event>, Broken> {
        let mut events = VecDeque::new();
        connection.receive(Bytes::copy_from_slice(bytes), &mut events)?;
        Ok(events.into())
    }

    /// Types (0 for data), streams and flags of the frames to be sent.
    fn sent(connection: &mut Connection) -> Vec<(u16, u32, u8)> {
        let mut out = connection.out.split();
        let mut frames = Vec::new();
        while !out.is_empty() {
            let (first, second) = (out.get_u32(), out.get_u32());
            let mut payload = out.split_to((second & 0xff_ffff) as usize);
            let flags = (second >> 24) as u8;
            match first & 0x8000_0000 {
                0 => frames.push((0, first, flags)),
                _ => frames.push(((first & 0xffff) as u16, payload.get_u32(), flags)),
            }
        }
        frames
    }

    #[test]
    fn a_stream_lives_until_both_sides_have_finished() {
        let (mut client, mut connection) = (Client(Deflater::new()), Connection::new());
        assert_eq!(take(&mut connection, &client.syn(1, 0, "data")).unwrap(), [Event::Opened(1, named("data"))]);
        assert_eq!(sent(&mut connection), [(2, 1, 0)]);
        let events = take(&mut connection, &Client::data(1, FIN, b"abc")).unwrap();
        assert_eq!(events, [Event::Data(1, Bytes::from_static(b"abc")), Event::Finished(1)]);
        connection.send(1, b"xyz");
        connection.finish(1);
        connection.send(1, b"too late");
        connection.finish(1);
        assert_eq!(sent(&mut connection), [(0, 1, 0), (0, 1, FIN)]);
        assert!(connection.streams.is_empty());
        // The client may not know yet.
        assert_eq!(take(&mut connection, &Client::data(1, 0, b"abc")).unwrap(), []);
        assert_eq!(sent(&mut connection), []);
    }

    #[test]
    fn a_stream_may_be_finished_as_it_is_opened_from_either_side() {
        let (mut client, mut connection) = (Client(Deflater::new()), Connection::new());
        let events = take(&mut connection, &client.syn(1, FIN, "error")).unwrap();
        assert_eq!(events, [Event::Opened(1, named("error")), Event::Finished(1)]);
        take(&mut connection, &client.syn(3, UNIDIRECTIONAL, "stdin")).unwrap();
        assert_eq!(sent(&mut connection), [(2, 1, 0), (2, 3, FIN)]);
        connection.send(3, b"nothing may be sent");
        assert_eq!(sent(&mut connection), []);
    }

    #[test]
    fn pings_are_answered_and_unknown_frames_are_skipped() {
        let mut connection = Connection::new();
        let mut bytes = Client::control(6, 0, &7_u32.to_be_bytes());
        bytes.extend(Client::control(6, 0, &8_u32.to_be_bytes()));
        bytes.extend(Client::control(77, 0, b"whatever"));
        bytes.extend(Client::control(4, 0, &0_u32.to_be_bytes()));
        bytes.extend(Client::control(9, 0, &[0, 0, 0, 0, 0, 1, 0, 0]));
        bytes.extend(Client::control(7, 0, &[0; 8]));
        assert_eq!(take(&mut connection, &bytes).unwrap(), []);
        assert_eq!(sent(&mut connection), [(6, 7, 0)]);
    }

    #[test]
    fn a_reset_ends_a_stream_at_once() {
        let (mut client, mut connection) = (Client(Deflater::new()), Connection::new());
        take(&mut connection, &client.syn(1, 0, "data")).unwrap();
        let mut rst = 1_u32.to_be_bytes().to_vec();
        rst.extend(CANCEL.to_be_bytes());
        assert_eq!(take(&mut connection, &Client::control(3, 0, &rst)).unwrap(), [Event::Reset(1)]);
        assert_eq!(take(&mut connection, &Client::control(3, 0, &rst)).unwrap(), []);
        sent(&mut connection);
        connection.send(1, b"abc");
        connection.reset(1);
        assert_eq!(sent(&mut connection), []);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_stream_or_by_connection() {
        let mut client = Client(Deflater::new());
        let mut connection = Connection::new();
        take(&mut connection, &Client::data(5, 0, b"abc")).unwrap();
        assert_eq!(sent(&mut connection), [(3, 5, 0)]);
        take(&mut connection, &client.syn(5, FIN, "data")).unwrap();
        sent(&mut connection);
        take(&mut connection, &Client::data(5, 0, b"abc")).unwrap();
        assert_eq!(sent(&mut connection), [(3, 5, 0)]);
        assert_eq!(take(&mut connection, &client.syn(3, 0, "data")), Err(Broken::Order(3, 5)));
        let size = |kind, size: usize| Err(Broken::Size { kind, size });
        let rows = [
            (vec![0x80, 2, 0, 1, 0, 0, 0, 10], Err(Broken::Version(2))),
            (Client::control(1, 0, &[0; 9]), size(1, 9)),
            (Client::control(3, 0, &[0; 4]), size(3, 4)),
            (Client::control(6, 0, &[0; 5]), size(6, 5)),
            (vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], size(1, 0xff_ffff)),
            (Client::control(1, 0, &[0; 30]), Err(Broken::Headers)),
        ];
        for (bytes, broken) in rows {
            assert_eq!(take(&mut Connection::new(), &bytes), broken);
        }
    }

    #[test]
    fn no_more_than_so_many_streams_are_taken() {
        let (mut client, mut connection) = (Client(Deflater::new()), Connection::new());
        for n in 0..=u32::try_from(MOST).unwrap() {
            take(&mut connection, &client.syn(2 * n + 1, 0, "data")).unwrap();
        }
        assert_eq!(connection.streams.len(), MOST);
        assert_eq!(sent(&mut connection).last(), Some(&(3, 2 * u32::try_from(MOST).unwrap() + 1, 0)));
    }

    proptest! {
        /// How the bytes come in pieces makes no difference, but for the borders of data.
        #[test]
        fn pieces_of_any_size_mean_the_same(cuts in prop::collection::vec(1_usize..40, 1..60)) {
            let mut client = Client(Deflater::new());
            let mut bytes = client.syn(1, 0, "stdin");
            bytes.extend(Client::data(1, 0, b"some bytes of input"));
            bytes.extend(client.syn(3, 0, "resize"));
            bytes.extend(Client::data(3, FIN, b""));
            bytes.extend(Client::data(1, FIN, b"and the end of it"));
            let mut connection = Connection::new();
            let mut events = VecDeque::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                connection.receive(Bytes::copy_from_slice(piece), &mut events).unwrap();
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            let mut input = Vec::new();
            let mut others = Vec::new();
            for event in events {
                match event {
                    Event::Data(1, piece) => input.extend(piece),
                    other => others.push(other),
                }
            }
            prop_assert_eq!(input, b"some bytes of inputand the end of it");
            prop_assert_eq!(others, [
                Event::Opened(1, named("stdin")), Event::Opened(3, named("resize")),
                Event::Finished(3), Event::Finished(1),
            ]);
        }

        /// Bytes at random, and frames at random whose heads are right so that they come further.
        #[test]
        fn nothing_panics_or_grows(pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                (0_u16..12, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
                    .prop_map(|(kind, flags, payload)| Client::control(kind, flags, &payload)),
                (0_u32..6, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
                    .prop_map(|(stream, flags, bytes)| Client::data(stream, flags, &bytes)),
                (0_u32..9, any::<u8>()).prop_map(|(n, flags)| Client(Deflater::new()).syn(n, flags, "data")),
            ],
            0..40,
        )) {
            let mut connection = Connection::new();
            let mut events = VecDeque::new();
            let mut total = 0;
            for piece in pieces {
                total += piece.len();
                if connection.receive(piece.into(), &mut events).is_err() {
                    break;
                }
                connection.send(1, b"x");
            }
            prop_assert!(connection.partial.len() <= LARGEST);
            prop_assert!(events.len() <= total + 1);
            prop_assert!(connection.out.len() <= 4 * total + 9 * 40);
        }
    }
}

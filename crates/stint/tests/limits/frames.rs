//! Frames of HTTP/2 (RFC 9113), made by hand so that they can be wrong.

use std::io::{Read, Write};

/// What a client says first: the preface, and that it has no settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a GET of `path`, from HPACK's static table and in plain letters (RFC 7541).
pub fn get(path: &str) -> Vec<u8> {
    [&[0x82, 0x86][..], &text(0x04, path), &text(0x01, "stint")].concat()
}

/// A field that no table knows.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [text(0, name), text_alone(value)].concat()
}

fn text(start: u8, value: &str) -> Vec<u8> {
    [&[start][..], &text_alone(value)].concat()
}

/// A length of seven bits and more, and the letters.
fn text_alone(value: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = value.len();
    if rest < 0x7f {
        all.push(u8::try_from(rest).unwrap());
    } else {
        all.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            all.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
            rest /= 0x80;
        }
        all.push(u8::try_from(rest).unwrap());
    }
    all.extend(value.as_bytes());
    all
}

/// A frame that came: its kind, flags, stream and payload. None: the connection has ended.
pub fn next(stream: &mut impl Read) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Reads up to the end of the answer on `wanted`: its data. None: the stream was reset, or the connection has ended.
pub fn answer(stream: &mut (impl Read + Write), wanted: u32) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let (kind, flags, id, payload) = next(stream)?;
        match kind {
            SETTINGS if flags == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).ok()?,
            PING if flags == 0 => stream.write_all(&frame(PING, 1, 0, &payload)).ok()?,
            GOAWAY => return None,
            RST_STREAM if id == wanted => return None,
            DATA | HEADERS if id == wanted => {
                if kind == DATA {
                    data.extend(payload);
                }
                if flags & END_STREAM != 0 {
                    return Some(data);
                }
            }
            _ => {}
        }
    }
}

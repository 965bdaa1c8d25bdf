//! Questions and answers of DNS (RFC 1035), as much as a server of addresses needs.
//!
//! Invariant: nothing that a pod sends makes this panic or go on for ever; what is no plain question is `None`.

use std::net::Ipv4Addr;

/// The header's length.
const HEADER: usize = 12;
/// The name of the question, as a reference.
const ITS_NAME: [u8; 2] = [0xc0, 12];
/// Record type A, and the class of the internet.
const A: u16 = 1;
const ANY: u16 = 255;
const INTERNET: u16 = 1;
/// For how many seconds an answer holds, as CoreDNS says of pods.
const TTL: u32 = 5;
/// More addresses than that do not fit into the shortest datagram that everybody takes.
const MOST: usize = 24;

/// A question about a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, without the dot at its end.
    pub(super) name: String,
    kind: u16,
    id: [u8; 2],
    /// Whether others may be asked on the way.
    recursive: bool,
    /// Name, type and class, as they came.
    text: Vec<u8>,
}

/// How an answer ends.
#[derive(Clone, Copy)]
enum Code {
    Fine = 0,
    Failure = 2,
    NoSuchName = 3,
}

impl Question {
    /// The one question of a message, if it is a standard query that has one.
    pub(super) fn parse(message: &[u8]) -> Option<Question> {
        let header = message.get(..HEADER)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let is_query = header[2] & 0xf8 == 0; // neither an answer nor another operation
        if !is_query || number(4) != 1 {
            return None;
        }
        let mut at = HEADER;
        let mut name = String::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            match length {
                0 => break,
                1..64 => {}
                _ => return None, // a reference to elsewhere, which a question does not need
            }
            let label = message.get(at..at + length)?;
            at += length;
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|&byte| char::from(byte.to_ascii_lowercase())));
            if name.len() > 253 {
                return None;
            }
        }
        let kind = message.get(at..at + 2)?;
        let class = message.get(at + 2..at + 4)?;
        if u16::from_be_bytes([class[0], class[1]]) != INTERNET {
            return None;
        }
        Some(Question {
            name,
            kind: u16::from_be_bytes([kind[0], kind[1]]),
            id: [header[0], header[1]],
            recursive: header[2] & 1 != 0,
            text: message[HEADER..at + 4].to_vec(),
        })
    }

    /// The name has these addresses; a question for something else finds nothing.
    pub(super) fn addresses(&self, addresses: &[Ipv4Addr]) -> Vec<u8> {
        let wanted = matches!(self.kind, A | ANY);
        let shown = &addresses[..if wanted { addresses.len().min(MOST) } else { 0 }];
        let mut answer = self.header(Code::Fine, shown.len());
        for address in shown {
            answer.extend_from_slice(&ITS_NAME);
            answer.extend_from_slice(&A.to_be_bytes());
            answer.extend_from_slice(&INTERNET.to_be_bytes());
            answer.extend_from_slice(&TTL.to_be_bytes());
            answer.extend_from_slice(&4_u16.to_be_bytes());
            answer.extend_from_slice(&address.octets());
        }
        answer
    }

    /// There is no such name.
    pub(super) fn no_such_name(&self) -> Vec<u8> {
        self.header(Code::NoSuchName, 0)
    }

    /// Nobody could be asked.
    pub(super) fn failure(&self) -> Vec<u8> {
        self.header(Code::Failure, 0)
    }

    fn header(&self, code: Code, answers: usize) -> Vec<u8> {
        let authoritative = !matches!(code, Code::Failure);
        let first = 0x80 | u8::from(authoritative) << 2 | u8::from(self.recursive);
        let mut answer = vec![self.id[0], self.id[1], first, 0x80 | code as u8, 0, 1];
        answer.extend_from_slice(&u16::try_from(answers).unwrap_or(0).to_be_bytes());
        answer.extend_from_slice(&[0; 4]);
        answer.extend_from_slice(&self.text);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message
    }

    #[test]
    fn a_question_is_answered_with_addresses() {
        let question = Question::parse(&query("Job-0.Svc.default", 1)).unwrap();
        assert_eq!(question.name, "job-0.svc.default");
        let answer = question.addresses(&[Ipv4Addr::new(10, 85, 0, 2)]);
        assert_eq!(&answer[..8], [7, 9, 0x85, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 85, 0, 2]), "{answer:?}");
        assert_eq!(&answer[12..12 + question.text.len()], question.text, "with the question as it was asked");
    }

    #[test]
    fn another_type_finds_a_name_without_such_records() {
        let question = Question::parse(&query("a.b", 28)).unwrap();
        let answer = question.addresses(&[Ipv4Addr::LOCALHOST]);
        assert_eq!((answer[3] & 0xf, answer[7]), (0, 0));
        assert_eq!(question.no_such_name()[3] & 0xf, 3);
        assert_eq!(question.failure()[3] & 0xf, 2);
    }

    #[test]
    fn many_addresses_fit_into_the_shortest_datagram() {
        let longest = ["a".repeat(31).as_str(); 3].join(".");
        let question = Question::parse(&query(&longest, 1)).unwrap();
        assert!(question.addresses(&[Ipv4Addr::LOCALHOST; 300]).len() <= 512);
    }

    #[test]
    fn what_is_no_question_is_none() {
        let good = query("a.b", 1);
        for cut in 0..good.len() {
            assert_eq!(Question::parse(&good[..cut]), None, "{cut}");
        }
        let changed = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            Question::parse(&bad)
        };
        assert_eq!(changed(2, 0x81), None, "an answer");
        assert_eq!(changed(5, 2), None, "two questions");
        assert_eq!(changed(12, 0xc0), None, "a reference");
        assert_eq!(changed(good.len() - 1, 3), None, "another class");
        assert_eq!(Question::parse(&query(&["a".repeat(63).as_str(); 5].join("."), 1)), None, "too long");
    }
}

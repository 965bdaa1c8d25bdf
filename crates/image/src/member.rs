//! Tar members: reading the archive format of layers, within bounds.
//!
//! The `tar` crate's reader trusts the archive with memory (a long name may be as long as the archive says), splits PAX
//! records at newlines (which a binary attribute may hold), and knows no PAX sparse files; a layer comes from strangers.
//! This reader holds at most [`LONGEST_EXTENSION`] of extensions and follows Go's `archive/tar` where the format is
//! ambiguous, since that is what builds and reads the world's images: two readers that disagree about where a member
//! ends are a hole.
//!
//! ```text
//! [x: PAX records]? [L: long name]? [K: long link]? header [sparse map]? content, padded to 512     …     zero block
//! ```

use std::io::{self, Read};

const BLOCK: usize = 512;

/// Bytes that the extension headers of one member may have, and its sparse map.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// One member's header, with all extensions applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    /// The name as it stands in the archive.
    pub(crate) path: Vec<u8>,
    /// The target of a link as it stands in the archive.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// The size of the file once unpacked.
    pub(crate) size: u64,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The places (offset, length) of a sparse file that the content fills, in order.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// A type flag that means nothing to us.
    Other(u8),
}

/// Why an archive cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The archive does not follow the format.
    Format(String),
    /// The stream below it failed.
    Read(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The members of an archive, one after the other; between two, this reads the current one's content.
pub(crate) struct Members<R> {
    input: R,
    /// Content bytes of the current member that are still to come.
    remaining: u64,
    /// Padding after them.
    padding: u64,
}

/// PAX records: keys and values.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Extensions that were read and await their member.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: Records,
    length: u64,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, remaining: 0, padding: 0 }
    }

    /// The stream after the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The stream itself, standing at the current member's content.
    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Skips the current member by moving in the stream instead of reading it.
    pub(crate) fn jump(&mut self, seek: impl FnOnce(&mut R, i64) -> io::Result<()>) -> io::Result<()> {
        let length = i64::try_from(self.remaining + self.padding).map_err(|_| io::ErrorKind::InvalidData)?;
        (self.remaining, self.padding) = (0, 0);
        seek(&mut self.input, length)
    }

    /// The next member; what was not read of the current one is skipped. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Fault> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? || block.iter().all(|b| *b == 0) {
                if extensions.length > 0 {
                    return Err(Fault::Format("it ends after an extension header".to_owned()));
                }
                return Ok(None);
            }
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let records = self.extension(size, &mut extensions)?;
                    extensions.records.extend(parse_records(&records)?);
                }
                b'g' => {
                    self.extension(size, &mut extensions)?; // archive-wide defaults (a commit id): Go ignores them too
                    extensions.length -= size.max(1);
                }
                b'L' => extensions.long_name = Some(until_nul(&self.extension(size, &mut extensions)?).to_vec()),
                b'K' => extensions.long_link = Some(until_nul(&self.extension(size, &mut extensions)?).to_vec()),
                flag => return self.member(&block, flag, size, extensions).map(Some),
            }
        }
    }

    fn member(&mut self, block: &[u8; BLOCK], flag: u8, size: u64, extensions: Extensions) -> Result<Member, Fault> {
        let mut stored = size;
        let mut member = Member {
            path: extensions.long_name.unwrap_or_else(|| header_path(block)),
            link: extensions.long_link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            mode: u32::try_from(number(&block[100..108])? & 0o7777).expect("twelve bits fit"),
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            mtime: (signed_number(&block[136..148])?, 0),
            ..Member::default()
        };
        let sparse = apply_records(&mut member, extensions.records, &mut stored)?;
        member.kind = match flag {
            0 | b'0' if member.path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        if matches!(member.kind, Kind::CharDevice | Kind::BlockDevice) {
            let part = |field: &[u8]| number(field).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            member.device = (part(&block[329..337])?, part(&block[337..345])?);
        }
        // As in Go, only files (and the unknown) have content, whatever the size field of the others says.
        if !matches!(member.kind, Kind::File | Kind::Other(_)) {
            return Ok(member);
        }
        if i64::try_from(stored).is_err() {
            return Err(Fault::Format(format!("member {:?} says that it is {stored} bytes long", show(&member.path))));
        }
        member.size = stored;
        if flag == b'S' {
            let (real_size, map) = self.old_sparse_map(block)?;
            member.size = real_size;
            member.sparse = Some(map);
        }
        self.remaining = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        match sparse {
            Some(Sparse::Listed { real_size, map }) => {
                member.size = real_size;
                member.sparse = Some(map);
            }
            Some(Sparse::InContent { real_size }) => {
                member.size = real_size;
                member.sparse = Some(self.sparse_map_in_content()?);
            }
            None => {}
        }
        if let Some(map) = &member.sparse {
            check_sparse(map, member.size, self.remaining)?;
        }
        Ok(member)
    }

    /// Skips what is left of the current member.
    fn skip(&mut self) -> Result<(), Fault> {
        let length = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink())?;
        // The last member's padding may be missing, as in Go.
        if skipped < self.remaining {
            return Err(truncated());
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// A whole block, or false at the end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(truncated()),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn extension(&mut self, size: u64, extensions: &mut Extensions) -> Result<Vec<u8>, Fault> {
        extensions.length = extensions.length.saturating_add(size.max(1));
        if extensions.length > LONGEST_EXTENSION {
            return Err(Fault::Format(format!("extension headers of more than {LONGEST_EXTENSION} bytes")));
        }
        let mut bytes = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(truncated());
        }
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(bytes)
    }

    /// The map of GNU's old format: four places in the header, then blocks of 21.
    fn old_sparse_map(&mut self, block: &[u8; BLOCK]) -> Result<(u64, Vec<(u64, u64)>), Fault> {
        let mut map = Vec::new();
        let push = |map: &mut Vec<_>, places: &[u8]| -> Result<(), Fault> {
            for place in places.chunks_exact(24) {
                if place[0] == 0 {
                    break;
                }
                map.push((number(&place[..12])?, number(&place[12..])?));
            }
            Ok(())
        };
        push(&mut map, &block[386..482])?;
        let real_size = number(&block[483..495])?;
        let mut extended = block[482] != 0;
        while extended {
            let mut more = [0; BLOCK];
            if !self.read_block(&mut more)? {
                return Err(truncated());
            }
            push(&mut map, &more[..504])?;
            extended = more[504] != 0;
            if map.len() as u64 * 24 > LONGEST_EXTENSION {
                return Err(Fault::Format("a sparse map with too many places".to_owned()));
            }
        }
        Ok((real_size, map))
    }

    /// The map of the PAX format 1.0: decimal lines at the start of the content, padded to a block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<(u64, u64)>, Fault> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut read = 0;
        loop {
            let mut block = [0; BLOCK];
            if self.remaining < BLOCK as u64 || !self.read_block(&mut block)? {
                return Err(truncated());
            }
            self.remaining -= BLOCK as u64;
            read += BLOCK as u64;
            if read > LONGEST_EXTENSION {
                return Err(Fault::Format("a sparse map with too many places".to_owned()));
            }
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                numbers.push(decimal(&line)?);
                line.clear();
                let wanted = numbers[0].saturating_mul(2).saturating_add(1);
                if numbers.len() as u64 == wanted {
                    return Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
                }
            }
        }
    }
}

/// Reads the current member's content.
impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.input.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside a member"));
        }
        self.remaining -= length as u64;
        Ok(length)
    }
}

/// A PAX sparse file: its map is in the records, or at the start of its content.
enum Sparse {
    Listed { real_size: u64, map: Vec<(u64, u64)> },
    InContent { real_size: u64 },
}

/// Applies PAX records to the member; `stored` is the size of its content in the archive.
fn apply_records(member: &mut Member, records: Records, stored: &mut u64) -> Result<Option<Sparse>, Fault> {
    let mut places: Vec<u64> = Vec::new();
    let (mut name, mut real_size, mut version_one, mut is_sparse) = (None, None, false, false);
    for (key, value) in records {
        if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
            member.xattrs.push((attribute.to_vec(), value));
            continue;
        }
        if value.is_empty() && !key.starts_with(b"GNU.sparse.") {
            continue; // an empty value takes an earlier one back: the header's field stands
        }
        match key.as_slice() {
            b"path" => member.path = value,
            b"linkpath" => member.link = value,
            b"size" => *stored = decimal(&value)?,
            b"uid" => member.uid = decimal(&value)?,
            b"gid" => member.gid = decimal(&value)?,
            b"mtime" => member.mtime = time(&value)?,
            b"GNU.sparse.major" => (is_sparse, version_one) = (true, value == b"1"),
            b"GNU.sparse.name" => name = Some(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => (is_sparse, real_size) = (true, Some(decimal(&value)?)),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => places.push(decimal(&value)?),
            b"GNU.sparse.map" if !value.is_empty() => {
                places = value.split(|b| *b == b',').map(decimal).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
    }
    if !is_sparse {
        return Ok(None);
    }
    if let Some(name) = name {
        member.path = name;
    }
    let Some(real_size) = real_size else {
        return Err(Fault::Format("a sparse file without its size".to_owned()));
    };
    if version_one {
        return Ok(Some(Sparse::InContent { real_size }));
    }
    if places.len() % 2 == 1 {
        return Err(Fault::Format("a sparse map with half a place".to_owned()));
    }
    Ok(Some(Sparse::Listed { real_size, map: places.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect() }))
}

/// The places must be in order, inside the file, and filled exactly by the content.
fn check_sparse(map: &[(u64, u64)], size: u64, content: u64) -> Result<(), Fault> {
    let mut end = 0;
    let mut filled = 0_u64;
    for (offset, length) in map {
        let until = offset.checked_add(*length).filter(|until| *offset >= end && *until <= size);
        end = until.ok_or_else(|| Fault::Format("a sparse map that overlaps or leaves the file".to_owned()))?;
        filled += length;
    }
    if filled != content {
        return Err(Fault::Format(format!("a sparse map of {filled} bytes for {content} bytes of content")));
    }
    Ok(())
}

/// `<length> <key>=<value>\n` again and again, where the length covers the whole record.
fn parse_records(mut bytes: &[u8]) -> Result<Records, Fault> {
    let fault = || Fault::Format("a malformed PAX record".to_owned());
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(fault)?;
        let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| fault())?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(fault());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(fault)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(fault());
        }
        records.push((key.to_vec(), value.to_vec()));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// The name in the header itself: POSIX archives put the front of a long one into `prefix`.
fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The sum of all bytes, with the sum's own field as spaces. Some old archivers added signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), Fault> {
    let told = number(&block[148..156])?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (place, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&place) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if i64::try_from(told).is_ok_and(|told| told == unsigned || told == signed) {
        return Ok(());
    }
    Err(Fault::Format("a header's checksum is wrong: this is no tar archive, or it is damaged".to_owned()))
}

fn number(field: &[u8]) -> Result<u64, Fault> {
    u64::try_from(signed_number(field)?).map_err(|_| Fault::Format("a negative number".to_owned()))
}

/// Octal digits between spaces and NULs, or GNU's big-endian binary when the first bit is set.
fn signed_number(field: &[u8]) -> Result<i64, Fault> {
    let too_large = || Fault::Format("a number that is too large".to_owned());
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (place, byte) in field.iter().enumerate() {
            let byte = if place == 0 && !negative { byte & 0x7f } else { *byte };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| too_large());
    }
    let digits: Vec<u8> = until_nul(field).iter().copied().filter(|b| *b != b' ').collect();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).and_then(|v| v.checked_add(i64::from(digit - b'0'))).ok_or_else(too_large),
        _ => Err(Fault::Format("a number that is not octal: this is no tar archive, or it is damaged".to_owned())),
    })
}

fn decimal(text: &[u8]) -> Result<u64, Fault> {
    let fault = || Fault::Format(format!("{:?} is no number", show(text)));
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(fault());
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(fault)
}

/// `[-]seconds[.fraction]`.
fn time(text: &[u8]) -> Result<(i64, u32), Fault> {
    let (negative, rest) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = rest.iter().position(|b| *b == b'.');
    let (whole, fraction) = dot.map_or((rest, &[][..]), |dot| (&rest[..dot], &rest[dot + 1..]));
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| Fault::Format("a time out of range".to_owned()))?;
    let mut nanoseconds = 0;
    if !fraction.is_empty() {
        decimal(&fraction[..fraction.len().min(9)])?;
        for place in 0..9 {
            nanoseconds = nanoseconds * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
        }
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn truncated() -> Fault {
    Fault::Read(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside a member"))
}

/// A name for a message: readable, on one line, not endless.
pub(crate) fn show(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned();
    if bytes.len() > LONGEST { format!("{text}…") } else { text }
}

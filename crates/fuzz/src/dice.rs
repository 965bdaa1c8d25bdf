//! Chance that repeats: from a number, or from the bytes that a fuzzer chose.

/// Numbers without an end. From bytes: those first, and then what follows from how many there were.
#[derive(Debug)]
pub struct Dice<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Dice<'a> {
    /// Another list of numbers for each seed.
    pub fn new(seed: u64) -> Self {
        Self { bytes: &[], state: seed }
    }

    /// Whoever chooses the bytes chooses what is rolled.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, state: bytes.len() as u64 }
    }

    /// Any number (`SplitMix64`).
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        let [first, rest @ ..] = self.bytes else { return self.roll().to_le_bytes()[0] };
        self.bytes = rest;
        *first
    }

    /// A number below `end`.
    ///
    /// # Panics
    ///
    /// If there is none, as `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let number = match self.bytes {
            [] => self.roll(),
            [..] if end <= 1 << 8 => u64::from(self.byte()),
            [..] => u64::from(u16::from_le_bytes([self.byte(), self.byte()])),
        };
        usize::try_from(number % end as u64).expect("it is less than `end`")
    }

    /// One of these.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

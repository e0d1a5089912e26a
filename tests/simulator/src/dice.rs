//! Chance that comes from the seed alone.
//!
//! Every draw is named by what it is about, never by how many were made before: whatever order tasks
//! run in, the same question has the same answer.

/// A hash that is the same everywhere and always.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn eat(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // A separator, so that words cannot run into each other.
        self.0 = (self.0 ^ 0xff).wrapping_mul(0x0100_0000_01b3);
        self
    }

    pub(crate) fn done(self) -> u64 {
        // FNV leaves neighbours alike: stir once more (splitmix64).
        let mut z = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The dice of one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number in `range`, for what this is about.
    pub(crate) fn roll(self, about: &str, salt: u64, range: std::ops::Range<u64>) -> u64 {
        let drawn =
            Hash::new().eat(&self.0.to_le_bytes()).eat(about.as_bytes()).eat(&salt.to_le_bytes());
        let width = (range.end - range.start).max(1);
        range.start + drawn.done() % width
    }

    /// Whether something happens that does in so many of a thousand cases.
    pub(crate) fn chance(self, about: &str, salt: u64, in_1000: u64) -> bool {
        self.roll(about, salt, 0..1000) < in_1000
    }
}

//! A chunk: up to [`FULL`] samples of one series, compressed as in Facebook's Gorilla paper (§4.1), with Prometheus'
//! bucket sizes for times in milliseconds (`tsdb/chunkenc/xor.go`).
//!
//! ```text
//! first sample:  time as zigzag varint in whole bytes │ value, 64 bits
//! second sample: time delta as varint in whole bytes  │ value, xor
//! others:        delta of delta                       │ value, xor
//!
//! delta of delta  0                    0
//!                 [-8191, 8192]        10   + 14 bits
//!                 [-65535, 65536]      110  + 17 bits
//!                 [-524287, 524288]    1110 + 20 bits
//!                 else                 1111 + 64 bits
//! xor             0                    0
//!                 fits last window     10 + bits of the last window
//!                 else                 11 + 5 bits leading zeros + 6 bits length (0: 64) + bits
//! ```

/// Samples in a full chunk, as upstream.
pub(crate) const FULL: u16 = 120;

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub t: i64,
    /// The value.
    pub v: f64,
}

/// A chunk that no longer grows.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) min_t: i64,
    pub(crate) max_t: i64,
    pub(crate) count: u16,
    pub(crate) data: Box<[u8]>,
}

/// The chunk that a series' samples are appended to.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    bits: BitWriter,
    count: u16,
    min_t: i64,
    last_t: i64,
    delta: i64,
    last_v: u64,
    leading: u8,
    trailing: u8,
}

#[derive(Clone, Debug, Default)]
struct BitWriter {
    data: Vec<u8>,
    /// Unused bits of the last byte.
    free: u8,
}

/// Reads a chunk's samples in order.
pub(crate) struct Reader<'a> {
    bits: BitReader<'a>,
    left: u16,
    read: u16,
    t: i64,
    delta: i64,
    v: u64,
    leading: u8,
    trailing: u8,
}

struct BitReader<'a> {
    data: &'a [u8],
    at: usize,
}

const NO_WINDOW: u8 = 0xff;

// === impl Sealed ===

impl Sealed {
    pub(crate) fn read(&self) -> Reader<'_> {
        Reader::new(&self.data, self.count)
    }

    /// Bytes that this chunk holds, its own record included.
    pub(crate) fn size(&self) -> usize {
        self.data.len() + size_of::<Self>()
    }
}

// === impl Open ===

impl Open {
    pub(crate) fn new() -> Self {
        Self {
            bits: BitWriter::default(),
            count: 0,
            min_t: 0,
            last_t: i64::MIN,
            delta: 0,
            last_v: 0,
            leading: NO_WINDOW,
            trailing: 0,
        }
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    pub(crate) fn min_t(&self) -> i64 {
        self.min_t
    }

    pub(crate) fn last(&self) -> Option<Sample> {
        (self.count > 0).then(|| Sample { t: self.last_t, v: f64::from_bits(self.last_v) })
    }

    /// Appends a sample, which must be younger than the last one.
    pub(crate) fn append(&mut self, sample: Sample) {
        match self.count {
            0 => {
                self.min_t = sample.t;
                self.bits.varint(zigzag(sample.t));
                self.bits.write(sample.v.to_bits(), 64);
                self.last_v = sample.v.to_bits();
            }
            1 => {
                self.delta = sample.t.wrapping_sub(self.last_t);
                self.bits.varint(self.delta as u64);
                self.value(sample.v);
            }
            _ => {
                let delta = sample.t.wrapping_sub(self.last_t);
                let dod = delta.wrapping_sub(self.delta);
                self.delta = delta;
                match dod {
                    0 => self.bits.write(0, 1),
                    -8191..=8192 => self.bits.tagged(0b10, 2, dod, 14),
                    -65_535..=65_536 => self.bits.tagged(0b110, 3, dod, 17),
                    -524_287..=524_288 => self.bits.tagged(0b1110, 4, dod, 20),
                    _ => self.bits.tagged(0b1111, 4, dod, 64),
                }
                self.value(sample.v);
            }
        }
        self.last_t = sample.t;
        self.count += 1;
    }

    fn value(&mut self, v: f64) {
        let bits = v.to_bits();
        let xor = bits ^ self.last_v;
        self.last_v = bits;
        if xor == 0 {
            return self.bits.write(0, 1);
        }
        let (leading, trailing) = ((xor.leading_zeros() as u8).min(31), xor.trailing_zeros() as u8);
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            self.bits.write(0b10, 2);
            return self.bits.write(xor >> self.trailing, 64 - self.leading - self.trailing);
        }
        (self.leading, self.trailing) = (leading, trailing);
        let length = 64 - leading - trailing;
        self.bits.write(0b11, 2);
        self.bits.write(u64::from(leading), 5);
        self.bits.write(u64::from(length & 63), 6);
        self.bits.write(xor >> trailing, length);
    }

    pub(crate) fn read(&self) -> Reader<'_> {
        Reader::new(&self.bits.data, self.count)
    }

    /// Takes what there is as a sealed chunk and begins a new one.
    pub(crate) fn seal(&mut self) -> Sealed {
        let full = std::mem::replace(self, Self::new());
        Sealed { min_t: full.min_t, max_t: full.last_t, count: full.count, data: full.bits.data.into() }
    }
}

// === impl BitWriter ===

impl BitWriter {
    /// Writes the lowest `n` bits, highest first.
    fn write(&mut self, value: u64, n: u8) {
        let mut left = n;
        while left > 0 {
            if self.free == 0 {
                self.data.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let bits = ((value >> (left - take)) & ((1 << take) - 1)) as u8;
            if let Some(last) = self.data.last_mut() {
                *last |= bits << (self.free - take);
            }
            self.free -= take;
            left -= take;
        }
    }

    fn tagged(&mut self, tag: u64, tag_bits: u8, value: i64, n: u8) {
        self.write(tag, tag_bits);
        self.write(value as u64, n);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.write((value & 0x7f) | 0x80, 8);
            value >>= 7;
        }
        self.write(value, 8);
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(data: &'a [u8], count: u16) -> Self {
        Self { bits: BitReader { data, at: 0 }, left: count, read: 0, t: 0, delta: 0, v: 0, leading: 0, trailing: 0 }
    }

    fn time(&mut self) -> Option<()> {
        let dod = match self.bits.ones(4)? {
            0 => 0,
            1 => signed(self.bits.read(14)?, 14),
            2 => signed(self.bits.read(17)?, 17),
            3 => signed(self.bits.read(20)?, 20),
            _ => self.bits.read(64)? as i64,
        };
        self.delta = self.delta.wrapping_add(dod);
        self.t = self.t.wrapping_add(self.delta);
        Some(())
    }

    fn value(&mut self) -> Option<()> {
        if self.bits.read(1)? == 0 {
            return Some(());
        }
        if self.bits.read(1)? == 1 {
            self.leading = self.bits.read(5)? as u8;
            let length = match self.bits.read(6)? as u8 {
                0 => 64,
                length => length,
            };
            self.trailing = 64u8.checked_sub(self.leading)?.checked_sub(length)?;
        }
        self.v ^= self.bits.read(64 - self.leading - self.trailing)? << self.trailing;
        Some(())
    }
}

impl Iterator for Reader<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        match self.read {
            0 => {
                self.t = unzigzag(self.bits.varint()?);
                self.v = self.bits.read(64)?;
            }
            1 => {
                self.delta = self.bits.varint()? as i64;
                self.t = self.t.wrapping_add(self.delta);
                self.value()?;
            }
            _ => {
                self.time()?;
                self.value()?;
            }
        }
        self.read = 2.min(self.read + 1);
        Some(Sample { t: self.t, v: f64::from_bits(self.v) })
    }
}

// === impl BitReader ===

impl BitReader<'_> {
    fn read(&mut self, n: u8) -> Option<u64> {
        let (mut value, mut left) = (0u64, n);
        while left > 0 {
            let byte = *self.data.get(self.at / 8)?;
            let free = 8 - (self.at % 8) as u8;
            let take = left.min(free);
            let bits = (byte >> (free - take)) & (((1u16 << take) - 1) as u8);
            value = (value << take) | u64::from(bits);
            self.at += usize::from(take);
            left -= take;
        }
        Some(value)
    }

    /// Counts ones up to the first zero, at most `limit`.
    fn ones(&mut self, limit: u8) -> Option<u8> {
        for count in 0..limit {
            if self.read(1)? == 0 {
                return Some(count);
            }
        }
        Some(limit)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.read(8)?;
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The bucket of `n` bits holds `-(2^(n-1)-1)..=2^(n-1)`: the highest value takes the place of the lowest.
fn signed(bits: u64, n: u8) -> i64 {
    let value = bits as i64;
    if value > 1 << (n - 1) { value - (1 << n) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(samples: &[(i64, f64)]) -> usize {
        let mut open = Open::new();
        for &(t, v) in samples {
            open.append(Sample { t, v });
        }
        let sealed = open.clone().seal();
        for reader in [open.read(), sealed.read()] {
            let read: Vec<(i64, u64)> = reader.map(|s| (s.t, s.v.to_bits())).collect();
            let wrote: Vec<(i64, u64)> = samples.iter().map(|&(t, v)| (t, v.to_bits())).collect();
            assert_eq!(read, wrote);
        }
        sealed.data.len()
    }

    #[test]
    fn what_is_written_is_read() {
        check(&[(0, 1.0)]);
        check(&[(-5, f64::NAN), (7, f64::INFINITY)]);
        check(&[(0, 1.5), (15_000, 1.5), (30_000, -2.0), (45_001, 0.0), (59_999, f64::from_bits(0x7ff0_0000_0000_0002))]);
        // Each border of each bucket of time, and a window that shrinks and grows.
        let mut t = 0;
        let mut samples = vec![(0, 0.1), (1_000_000, 0.2)];
        for dod in [0i64, -8191, 8192, -8192, 8193, -65_535, 65_536, -65_536, 65_537, -524_287, 524_288, -524_288, 524_289] {
            t += 2_000_000 + dod;
            samples.push((1_000_000 + t, t as f64 * 0.3));
        }
        check(&samples);
        check(&[(i64::MIN / 4, 1.0), (0, 2.0), (i64::MAX / 4, 3.0)]);
    }

    #[test]
    fn a_constant_series_is_small() {
        let samples: Vec<(i64, f64)> = (0..120).map(|i| (1_700_000_000_000 + i * 15_000, 42.0)).collect();
        assert!(check(&samples) < 50);
    }
}

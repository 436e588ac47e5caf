//! An input, taken apart from its start: numbers, pieces and the rest.
//!
//! Owns how a target reads its input. It never fails: what is not there any more is zero, or empty. Does not own what the
//! parts mean.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    left: &'a [u8],
}

impl<'a> Feed<'a> {
    /// All of an input.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { left: input }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.number::<1>()[0]
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.number())
    }

    /// The next four bytes, little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    /// The next eight bytes, little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }

    /// So many bytes, or all that are left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(count.min(self.left.len()));
        self.left = left;
        taken
    }

    /// A piece whose length the next two bytes tell.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.u16());
        self.take(length)
    }

    /// A piece as text; what is not UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.piece()).into_owned()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    fn number<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        let mut number = [0; BYTES];
        let taken = self.take(BYTES);
        number[..taken.len()].copy_from_slice(taken);
        number
    }
}

//! Runs of bytes that are written once, one after the other, and read back in large pieces: past the system's cache, where
//! the file system can do that.
//!
//! Owns the buffer that makes pieces of any size aligned ones, and the padding at a run's end. Does not own where runs
//! begin: at a multiple of [`BLOCK_BYTES`].

use std::io;

use super::File;

/// What positions, lengths and memory are multiples of that do not go through the system's cache: the largest block that
/// disks have.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes that one write takes at most.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Memory that a run is gathered in, to be used again for the next one.
#[derive(Debug)]
pub struct RunBuffer {
    bytes: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
}

impl Default for RunBuffer {
    fn default() -> Self {
        let bytes = vec![0; BUFFER_BYTES + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Self { bytes, start }
    }
}

impl RunBuffer {
    /// All of it: 1 MiB, aligned to blocks.
    pub fn aligned(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BUFFER_BYTES]
    }
}

/// Writes one run.
#[derive(Debug)]
pub struct RunWriter<'a> {
    file: &'a File,
    buffer: &'a mut RunBuffer,
    /// Where what the buffer holds goes.
    offset: u64,
    filled: usize,
}

impl<'a> RunWriter<'a> {
    /// Begins a run at `offset`, which is a multiple of [`BLOCK_BYTES`] wherever the file was opened past the cache.
    pub fn new(file: &'a File, buffer: &'a mut RunBuffer, offset: u64) -> Self {
        Self { file, buffer, offset, filled: 0 }
    }

    /// Adds bytes to it.
    ///
    /// # Errors
    /// Any part of the run may be written then.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let part = bytes.len().min(BUFFER_BYTES - self.filled);
            let (now, later) = bytes.split_at(part);
            self.buffer.aligned()[self.filled..self.filled + part].copy_from_slice(now);
            self.filled += part;
            bytes = later;
            if self.filled == BUFFER_BYTES {
                self.flush(BUFFER_BYTES)?;
            }
        }
        Ok(())
    }

    /// Writes what is left, with zeros up to the next block where the file is written past the cache.
    ///
    /// # Errors
    /// As [`RunWriter::write`].
    pub fn finish(mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let filled = self.filled;
        let length = if self.file.is_past_cache() { filled.next_multiple_of(BLOCK_BYTES) } else { filled };
        self.buffer.aligned()[filled..length].fill(0);
        self.flush(length)
    }

    fn flush(&mut self, length: usize) -> io::Result<()> {
        self.file.write_blocks_at(&self.buffer.aligned()[..length], self.offset)?;
        self.offset += length as u64;
        self.filled = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn runs_are_read_back_as_they_were_written_aligned_and_not() {
        let root = tempfile::tempdir().unwrap();
        let file = Disk::real().open_past_cache(&root.path().join("segment")).unwrap();
        let mut buffer = RunBuffer::default();
        assert!(buffer.aligned().as_ptr().addr().is_multiple_of(BLOCK_BYTES));
        let bytes: Vec<u8> = (0..BUFFER_BYTES * 2 + 12_345).map(|at| ((at * 31) >> 3) as u8).collect();
        for (offset, length) in [(4096, bytes.len()), (1 << 23, 10), ((1 << 23) + 4096, 4096)] {
            let mut writer = RunWriter::new(&file, &mut buffer, offset);
            bytes[..length].chunks(70_001).for_each(|piece| writer.write(piece).unwrap());
            writer.finish().unwrap();
            let mut read = vec![0; length];
            file.read_at(&mut read, offset).unwrap();
            assert!(read == bytes[..length], "through the cache, at {offset}");
            let mut blocks = RunBuffer::default();
            let wanted = length.min(BUFFER_BYTES);
            let whole = wanted.next_multiple_of(BLOCK_BYTES);
            file.read_blocks_at(&mut blocks.aligned()[..whole], offset, wanted).unwrap();
            assert!(blocks.aligned()[..wanted] == bytes[..wanted], "past the cache, at {offset}");
        }
        let mut blocks = RunBuffer::default();
        // What does not fit the disk's blocks goes through the cache, from then on everything.
        let mut bytes = RunBuffer::default();
        bytes.aligned()[1..6].copy_from_slice(b"inner");
        file.write_blocks_at(&bytes.aligned()[1..6], 9).unwrap();
        let mut read = [0; 5];
        file.read_at(&mut read, 9).unwrap();
        assert_eq!((&read, file.is_past_cache()), (b"inner", false));
        let beyond = file.read_blocks_at(&mut blocks.aligned()[..BLOCK_BYTES], 1 << 30, 1);
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

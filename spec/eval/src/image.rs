//! What the memory of a kept child was like before its first job, and how it is made like that again.
//!
//! A kept child cannot change which memory it has: its filter allows no call that would. So the mappings that it may write
//! to are the same after each job, and what it has written to is what the kernel calls mapped exclusively: a page that it
//! shares with the zygote since the fork is copied before it is written to. All such pages get the content that they had.
//! The stack alone grows by itself; as far as it may, it is looked at as a whole. A page that the process has for itself from
//! some time on has taken it a page fault; so where it had none since it was last looked at, it is not looked at again.
//! The kernel must therefore not collapse its pages into large ones, of which it could write to all: see [`crate::seal`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::rc::Rc;

use anyhow::{Context, bail};
use nix::unistd::Pid;

use crate::seal::KEPT_STACK_BYTES;

const PAGE_BYTES: usize = 4096;
/// A child with more pages of its own than this is not worth being kept.
const RESTORED_PAGES_MAX: usize = 1500;
/// Mappings with fewer pages between them are looked at together.
const GAP_PAGES_MAX: usize = 64;
/// The most pieces of memory that one call moves.
const PIECES_MAX: usize = 1024;

/// Bits of an entry of `/proc/PID/pagemap`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;

#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

static ZEROS: Page = Page([0; PAGE_BYTES]);

/// The memory of another process. The files are opened as long as that is allowed.
pub(crate) struct Memory {
    pid: Pid,
    maps: File,
    pagemap: File,
    content: File,
    stat: File,
    /// What was found when the memory was last looked at.
    looked: Option<Looked>,
}

struct Looked {
    /// How many page faults the process had had.
    faults: u64,
    /// What there was to restore.
    pieces: Vec<Piece>,
}

/// The contents of all pages that a process may write to.
pub(crate) struct Image {
    regions: Vec<Region>,
    /// Where the contents are that another image does not have.
    own: Block,
    /// The image that has the others.
    base: Option<Rc<Image>>,
}

/// Neighbouring mappings.
struct Region {
    start: usize,
    /// Where the content of each page is in this process; none for what lies between mappings.
    contents: Vec<Option<usize>>,
}

/// Memory of this process that its children do not get.
struct Block {
    start: usize,
    bytes: usize,
}

/// Memory that a process may write to: one line of `/proc/PID/maps`.
struct Mapping {
    start: usize,
    pages: usize,
    is_file: bool,
}

/// Bytes that are moved from one process to the other.
#[derive(Clone, Copy)]
struct Piece {
    here: usize,
    there: usize,
    bytes: usize,
}

impl Memory {
    pub(crate) fn of(pid: Pid) -> io::Result<Memory> {
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        Ok(Memory {
            pid,
            maps: open("maps")?,
            pagemap: open("pagemap")?,
            content: open("mem")?,
            stat: open("stat")?,
            looked: None,
        })
    }

    /// Keeps what the memory is like; what is the same in `base` is not kept twice. `written` is an address that the
    /// process has just written to.
    pub(crate) fn image(&self, written: usize, base: Option<&Rc<Image>>) -> anyhow::Result<Image> {
        let mut regions: Vec<Region> = Vec::new();
        let mut held: Vec<usize> = Vec::new();
        let mut entries = Vec::new();
        for mapping in self.mappings()? {
            self.entries(mapping.start, mapping.pages, &mut entries)?;
            let region = region_at(&mut regions, mapping.start);
            for (index, entry) in entries.iter().enumerate() {
                let page = mapping.start + index * PAGE_BYTES;
                let is_held = mapping.is_file || entry & (PRESENT | SWAPPED) != 0;
                region.contents.push(Some(ZEROS.0.as_ptr() as usize));
                if is_held {
                    held.push(page);
                }
                if written / PAGE_BYTES * PAGE_BYTES == page && !is_changed(*entry) {
                    bail!("the kernel does not tell which pages a process has for itself");
                }
            }
        }
        let all = Block::new(held.len() * PAGE_BYTES).context("memory for an image")?;
        let pieces = held.iter().enumerate();
        let pieces = pieces.map(|(index, page)| Piece {
            here: all.start + index * PAGE_BYTES,
            there: *page,
            bytes: PAGE_BYTES,
        });
        let pieces: Vec<Piece> = pieces.collect();
        self.read(&joined(&pieces))?;
        let mut image = Image {
            regions,
            own: all,
            base: None,
        };
        for piece in &pieces {
            image.set(piece.there, piece.here);
        }
        // Whether this is allowed shows now, not after the first job.
        let is_written = |piece: &&Piece| piece.there == written / PAGE_BYTES * PAGE_BYTES;
        let trial: Vec<Piece> = pieces
            .iter()
            .find(is_written)
            .copied()
            .into_iter()
            .collect();
        self.write(&trial)?;
        match base {
            Some(base) => Ok(image.without(base)?),
            None => Ok(image),
        }
    }

    /// Gives all pages that were written to the content that they have in the image.
    pub(crate) fn restore(&mut self, image: &Image) -> anyhow::Result<()> {
        let faults = self.faults().context("page faults")?;
        let looked = match self.looked.take() {
            Some(looked) if looked.faults == faults => looked,
            _ => Looked {
                faults,
                pieces: self.changed(image)?,
            },
        };
        self.write(&looked.pieces)?;
        self.looked = Some(looked);
        Ok(())
    }

    /// What there is to restore.
    fn changed(&self, image: &Image) -> anyhow::Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut entries = Vec::new();
        for region in &image.regions {
            self.entries(region.start, region.contents.len(), &mut entries)?;
            let pages = entries.iter().zip(&region.contents).enumerate();
            pieces.extend(pages.filter_map(|(index, (entry, content))| {
                Some(Piece {
                    here: content.filter(|_| is_changed(*entry))?,
                    there: region.start + index * PAGE_BYTES,
                    bytes: PAGE_BYTES,
                })
            }));
        }
        if pieces.len() > RESTORED_PAGES_MAX {
            bail!("{} pages are too many", pieces.len());
        }
        Ok(joined(&pieces))
    }

    /// How many page faults the process has had.
    fn faults(&self) -> anyhow::Result<u64> {
        const MINOR: usize = 7;
        const MAJOR: usize = 9;
        let mut bytes = [0; 1024];
        let length = self.stat.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        // What comes before is a name, in which there may be anything.
        let (_, fields) = text.rsplit_once(')').context("no name")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number =
            |index: usize| anyhow::Ok(fields.get(index).context("too short")?.parse::<u64>()?);
        Ok(number(MINOR)? + number(MAJOR)?)
    }

    /// The mappings that the process may write to, and where its stack may grow.
    fn mappings(&self) -> anyhow::Result<Vec<Mapping>> {
        let mut text = Vec::new();
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.maps.read_at(&mut bytes, text.len() as u64)? {
                0 => break,
                read => text.extend_from_slice(&bytes[..read]),
            }
        }
        let text = String::from_utf8_lossy(&text);
        let mut mappings = Vec::new();
        for line in text.lines() {
            let mapping = Mapping::of(line).with_context(|| format!("a mapping: {line}"))?;
            if let Some(mapping) = mapping {
                mappings.push(mapping);
            }
        }
        Ok(mappings)
    }

    /// Reads the entries of pages that follow each other.
    fn entries(&self, start: usize, pages: usize, entries: &mut Vec<u64>) -> io::Result<()> {
        entries.clear();
        entries.resize(pages, 0);
        // SAFETY: these are the bytes of the numbers, all of which are valid.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(entries.as_mut_ptr().cast::<u8>(), pages * 8) };
        self.pagemap
            .read_exact_at(bytes, (start / PAGE_BYTES * 8) as u64)
    }

    /// Fills pieces of blocks. The call that reads many pieces at once would have the process get a copy of each page.
    fn read(&self, pieces: &[Piece]) -> io::Result<()> {
        for piece in pieces {
            // SAFETY: the piece is part of a block that is held and that nothing else refers to yet.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(piece.here as *mut u8, piece.bytes) };
            self.content.read_exact_at(bytes, piece.there as u64)?;
        }
        Ok(())
    }

    /// Writes all pieces.
    fn write(&self, pieces: &[Piece]) -> io::Result<()> {
        let vector = |base: usize, bytes| libc::iovec {
            iov_base: base as *mut libc::c_void,
            iov_len: bytes,
        };
        for pieces in pieces.chunks(PIECES_MAX) {
            let here: Vec<_> = pieces
                .iter()
                .map(|piece| vector(piece.here, piece.bytes))
                .collect();
            let there: Vec<_> = pieces
                .iter()
                .map(|piece| vector(piece.there, piece.bytes))
                .collect();
            let count = pieces.len() as libc::c_ulong;
            // SAFETY: what is here are pages of a block that is held, or zeros, and are only read. What is there is memory of
            // another process.
            let moved = unsafe {
                libc::process_vm_writev(
                    self.pid.as_raw(),
                    here.as_ptr(),
                    count,
                    there.as_ptr(),
                    count,
                    0,
                )
            };
            let bytes: usize = pieces.iter().map(|piece| piece.bytes).sum();
            match usize::try_from(moved) {
                Ok(moved) if moved == bytes => {}
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }
}

/// Joins pieces that follow each other on both sides.
fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last)
                if last.here + last.bytes == piece.here
                    && last.there + last.bytes == piece.there =>
            {
                last.bytes += piece.bytes;
            }
            _ => joined.push(*piece),
        }
    }
    joined
}

/// Whether a process may have written to the page.
fn is_changed(entry: u64) -> bool {
    entry & SWAPPED != 0 || entry & (PRESENT | EXCLUSIVE | OF_FILE) == PRESENT | EXCLUSIVE
}

/// The region that goes on at `start`.
fn region_at(regions: &mut Vec<Region>, start: usize) -> &mut Region {
    let is_near = regions.last().is_some_and(|last| {
        start - (last.start + last.contents.len() * PAGE_BYTES) <= GAP_PAGES_MAX * PAGE_BYTES
    });
    if !is_near {
        regions.push(Region {
            start,
            contents: Vec::new(),
        });
    }
    let last = regions.len() - 1;
    let region = &mut regions[last];
    region
        .contents
        .resize((start - region.start) / PAGE_BYTES, None);
    region
}

impl Mapping {
    /// What a line says; none if the process cannot write there.
    fn of(line: &str) -> anyhow::Result<Option<Mapping>> {
        // As in `7f203be00000-7f203dc00000 rw-p 00000000 00:00 0  [heap]`.
        let mut fields = line.split_whitespace();
        let mut next = || fields.next().context("a field is missing");
        let (range, rights) = (next()?, next()?);
        let (_offset, _device, inode) = (next()?, next()?, next()?);
        let name = fields.next().unwrap_or_default();
        if !rights.contains('w') {
            return Ok(None);
        }
        if !rights.ends_with('p') {
            bail!("memory that is shared");
        }
        let (start, end) = range.split_once('-').context("no range")?;
        let number = |text| usize::from_str_radix(text, 16);
        let (mut start, end) = (number(start)?, number(end)?);
        if name == "[stack]" {
            start = start.min(end - KEPT_STACK_BYTES as usize);
        }
        Ok(Some(Mapping {
            start,
            pages: (end - start) / PAGE_BYTES,
            is_file: inode != "0",
        }))
    }
}

impl Image {
    fn content(&self, page: usize) -> Option<usize> {
        let region = self.regions.iter().rfind(|region| region.start <= page)?;
        *region.contents.get((page - region.start) / PAGE_BYTES)?
    }

    fn set(&mut self, page: usize, content: usize) {
        if let Some(region) = self.regions.iter_mut().rfind(|region| region.start <= page) {
            region.contents[(page - region.start) / PAGE_BYTES] = Some(content);
        }
    }

    /// Leaves to `base` what is the same there.
    fn without(mut self, base: &Rc<Image>) -> io::Result<Image> {
        let mut other = Vec::new();
        for region in &mut self.regions {
            for (index, content) in region.contents.iter_mut().enumerate() {
                let Some(own) = *content else { continue };
                let theirs = base.content(region.start + index * PAGE_BYTES);
                match theirs.filter(|theirs| page_at(*theirs) == page_at(own)) {
                    Some(theirs) => *content = Some(theirs),
                    None => other.push(content),
                }
            }
        }
        let own = Block::new(other.len() * PAGE_BYTES)?;
        for (index, content) in other.into_iter().enumerate() {
            let place = own.start + index * PAGE_BYTES;
            if let Some(from) = content.replace(place) {
                // SAFETY: the page at `place` is of the new block, and nothing else refers to it yet.
                unsafe {
                    ptr::copy_nonoverlapping(from as *const u8, place as *mut u8, PAGE_BYTES)
                };
            }
        }
        self.own = own;
        self.base = Some(Rc::clone(base));
        Ok(self)
    }
}

/// The content of a page in an image.
fn page_at(content: usize) -> &'static [u8; PAGE_BYTES] {
    // SAFETY: contents of images are whole pages of blocks that live as long as the images that name them, and do not change
    // once they are filled; no caller keeps the reference.
    unsafe { &*(content as *const [u8; PAGE_BYTES]) }
}

impl Block {
    fn new(bytes: usize) -> io::Result<Block> {
        let bytes = bytes.max(PAGE_BYTES);
        // SAFETY: a new mapping at a place that the kernel chooses; the advice is about that alone.
        let start = unsafe {
            let start = libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            libc::madvise(start, bytes, libc::MADV_DONTFORK);
            libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
            start as usize
        };
        Ok(Block { start, bytes })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the mapping is this block's, and what refers to it goes with it.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
    }
}

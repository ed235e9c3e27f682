//! The tree in its files: C2SP tlog-tiles, height 8 (`tile/0/000`, `tile/entries/000`, `checkpoint`).
//!
//! Promise: a tile on disk is whole, and the checkpoint file comes after all tiles that it needs. What is not
//! there any more or is not what the checkpoint says is an error, never part of a new root.
//!
//! Hashes, tiles and proofs are those of the crate tlog_tiles. Ours is how they come to files, and what is
//! kept of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pec_host::files::{Together, replace};
use tlog_tiles::{
    Error, Hash, HashReader, Tile, TileHashReader, TileReader, prove_record, stored_hash_index,
    stored_hashes_for_record_hash, tree_hash,
};

use crate::checkpoint::Checkpoint;
use crate::error::RegisterError;
use crate::row::leaf;

/// Levels of the tree in one tile: 256 hashes.
const HEIGHT: u8 = 8;

/// Leaves of a whole tile.
pub const WIDTH: u64 = 1 << HEIGHT;

/// Bytes of an entry in a bundle: its length in two bytes, and itself.
const ENTRY: usize = 2 + 32;

/// The root of the tree without leaves (RFC 6962): the SHA-256 of nothing.
pub const EMPTY: Hash = tlog_tiles::EMPTY_HASH;

/// The directory of the tree.
#[derive(Debug, Clone)]
pub struct Tiles {
    directory: PathBuf,
}

impl Tiles {
    /// The tree in `directory` (`pec_register`).
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The latest checkpoint that was published here.
    pub fn checkpoint(&self) -> Result<Option<String>, RegisterError> {
        match fs::read_to_string(self.directory.join("checkpoint")) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("checkpoint", e)),
        }
    }

    /// How many leaves the latest checkpoint has that was published here; 0: none, or one that cannot be
    /// read.
    pub fn published(&self) -> Result<u64, RegisterError> {
        Ok(self
            .checkpoint()?
            .and_then(|text| Checkpoint::read(&text).ok())
            .map_or(0, |checkpoint| checkpoint.size))
    }

    /// Publishes a checkpoint whose tiles are written.
    pub fn set_checkpoint(&self, text: &str) -> Result<(), RegisterError> {
        let file = self.directory.join("checkpoint");
        replace(&file, |new| new.write_all(text.as_bytes())).map_err(|e| self.error("checkpoint", e))
    }

    /// The root of the first `size` leaves, by the tiles alone.
    pub fn root(&self, size: u64) -> Result<Hash, RegisterError> {
        if size == 0 {
            return Ok(EMPTY);
        }
        tree_hash(size, &Stored::new(self, size)).map_err(|_| self.broken())
    }

    /// The hashes of the largest whole subtrees of the first `size` leaves, from left to right.
    pub fn edge(&self, size: u64) -> Result<Edge, RegisterError> {
        let stored = Stored::new(self, size);
        let mut edge = Edge::default();
        let mut first = 0;
        for level in (0..64_u8).rev().filter(|level| size >> level & 1 == 1) {
            let hashes =
                stored.read_hashes(&[stored_hash_index(level, first >> level)]).map_err(|_| self.broken())?;
            edge.hashes.push((level, *hashes.first().ok_or_else(|| self.broken())?));
            first += 1 << level;
        }
        edge.size = size;
        Ok(edge)
    }

    /// The leaves of tile `n` of the lowest level, as far as the tree of `size` leaves goes. Taken as they
    /// lie there.
    pub fn leaves(&self, n: u64, size: u64) -> Result<Vec<Hash>, RegisterError> {
        let data = self.tile(0, n, size)?;
        Ok(data.chunks_exact(32).filter_map(|hash| Some(Hash(hash.try_into().ok()?))).collect())
    }

    /// The proof that leaf number `leaf` is in the tree of `size` leaves with this root (RFC 6962 s. 2.1.1).
    pub fn proof(&self, leaf: u64, size: u64, root: Hash) -> Result<Vec<Hash>, RegisterError> {
        prove_record(size, leaf, &TileHashReader::new(size, root, self)).map_err(|_| self.broken())
    }

    /// The proof that the tree of `old` leaves is the beginning of that of `size` (RFC 6962 s. 2.1.2).
    pub fn consistency(&self, old: u64, size: u64, root: Hash) -> Result<Vec<Hash>, RegisterError> {
        tlog_tiles::prove_tree(size, old, &TileHashReader::new(size, root, self)).map_err(|_| self.broken())
    }

    /// The entries of bundle `n`, as far as the tree of `size` leaves goes.
    pub fn entries(&self, n: u64, size: u64) -> Result<Vec<[u8; 32]>, RegisterError> {
        let data = self.read("entries", n, size, ENTRY)?;
        Ok(data.chunks_exact(ENTRY).filter_map(|entry| entry.get(2..)?.try_into().ok()).collect())
    }

    fn tile(&self, level: u8, n: u64, size: u64) -> Result<Vec<u8>, RegisterError> {
        let at_level = size >> (u32::from(level) * u32::from(HEIGHT));
        self.read(&level.to_string(), n, at_level, 32)
    }

    /// A file of tiles or entries: whole, or of the width that the tree has, or of a larger one.
    fn read(&self, level: &str, n: u64, at_level: u64, unit: usize) -> Result<Vec<u8>, RegisterError> {
        let width = at_level.saturating_sub(n << HEIGHT).min(WIDTH);
        let bytes = usize::try_from(width).unwrap_or(0) * unit;
        let name = path(level, n, width);
        let data = match fs::read(self.directory.join(&name)) {
            // The tree is larger by now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.wider(level, n, width).map_or(Err(e), fs::read)
            }
            read => read,
        };
        let mut data = data.map_err(|e| self.error(&name, e))?;
        if data.len() < bytes {
            return Err(self.error(&name, io::ErrorKind::UnexpectedEof.into()));
        }
        data.truncate(bytes);
        Ok(data)
    }

    /// The tile with more than `width` hashes.
    fn wider(&self, level: &str, n: u64, width: u64) -> Option<PathBuf> {
        let whole = self.directory.join(path(level, n, WIDTH));
        if whole.exists() {
            return Some(whole);
        }
        let parts = fs::read_dir(self.directory.join(path(level, n, WIDTH) + ".p")).ok()?.flatten();
        parts.map(|part| part.path()).find(|path| {
            path.file_name().and_then(|name| name.to_str()?.parse().ok()).is_some_and(|w: u64| w > width)
        })
    }

    fn error(&self, name: &str, trouble: io::Error) -> RegisterError {
        RegisterError::file(&self.directory.join(name))(trouble)
    }

    fn broken(&self) -> RegisterError {
        RegisterError::Tiles(self.directory.display().to_string())
    }
}

/// `tile/0/x001/234` or, where it is not whole, `tile/0/x001/234.p/56`.
fn path(level: &str, n: u64, width: u64) -> String {
    // The library has the height in its paths, C2SP has not, and calls the entries by their name.
    let long = Tile::new(HEIGHT, 0, n, u32::try_from(width).unwrap_or(0), false).path();
    long.replacen("tile/8/0/", &format!("tile/{level}/"), 1)
}

/// For proofs: tiles that the library holds against the root.
impl TileReader for Tiles {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let read = |tile: &Tile| {
            let at_level = (tile.level_index() << HEIGHT) + u64::from(tile.width());
            self.read(&tile.level().to_string(), tile.level_index(), at_level, 32)
                .map_err(|_| Error::InvalidTile)
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// The hashes of a tree of so many leaves, from its tiles, as they lie there.
struct Stored<'a> {
    tiles: &'a Tiles,
    size: u64,
    /// Tiles that were read: hashes are asked for one by one, and lie beside each other.
    known: RefCell<HashMap<(u8, u64), Vec<u8>>>,
}

impl<'a> Stored<'a> {
    fn new(tiles: &'a Tiles, size: u64) -> Self {
        Self { tiles, size, known: RefCell::default() }
    }
}

impl HashReader for Stored<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        let hash = |index: &u64| {
            let tile = Tile::from_index(HEIGHT, *index);
            let mut known = self.known.borrow_mut();
            let data = match known.entry((tile.level(), tile.level_index())) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => free.insert(
                    self.tiles
                        .tile(tile.level(), tile.level_index(), self.size)
                        .map_err(|_| Error::InvalidTile)?,
                ),
            };
            tile.hash_at_index(data, *index)
        };
        indexes.iter().map(hash).collect()
    }
}

/// The right edge of a tree: all that is needed of it to go on and to have its root.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    size: u64,
    hashes: Vec<(u8, Hash)>,
}

impl Edge {
    /// One leaf more.
    pub fn push(&mut self, leaf: Hash) {
        let (mut level, mut hash) = (0, leaf);
        while let Some(&(other, left)) = self.hashes.last()
            && other == level
        {
            hash = tlog_tiles::node_hash(left, hash);
            level += 1;
            self.hashes.pop();
        }
        self.hashes.push((level, hash));
        self.size += 1;
    }

    /// From the hashes of the whole subtrees of `size` leaves, from left to right, as [`Edge::hashes`] gives
    /// them. `None`: there are as many subtrees as `size` has ones in binary, and these are more or fewer.
    pub fn of(size: u64, hashes: &[Hash]) -> Option<Self> {
        let levels: Vec<u8> = (0..64).rev().filter(|level| size >> level & 1 == 1).collect();
        (levels.len() == hashes.len())
            .then(|| Self { size, hashes: levels.into_iter().zip(hashes.iter().copied()).collect() })
    }

    /// The hashes of the whole subtrees, from left to right.
    pub fn hashes(&self) -> impl Iterator<Item = Hash> + '_ {
        self.hashes.iter().map(|(_, hash)| *hash)
    }

    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut hashes = self.hashes.iter().rev().map(|(_, hash)| *hash);
        let last = hashes.next().unwrap_or(EMPTY);
        hashes.fold(last, |right, left| tlog_tiles::node_hash(left, right))
    }
}

/// A tree that grows beyond what is on disk.
pub struct Growth<'a> {
    tiles: &'a Tiles,
    stored: Stored<'a>,
    old: u64,
    size: u64,
    /// By their place in the order of the library.
    new: HashMap<u64, Hash>,
    entries: Vec<[u8; 32]>,
    edge: Edge,
}

impl<'a> Growth<'a> {
    /// From the tree of `old` leaves with that root, which the tiles must give.
    pub fn from(tiles: &'a Tiles, old: u64, root: Hash) -> Result<Self, RegisterError> {
        let edge = tiles.edge(old)?;
        if edge.root() != root {
            return Err(tiles.broken());
        }
        Ok(Self {
            tiles,
            stored: Stored::new(tiles, old),
            old,
            size: old,
            new: HashMap::new(),
            entries: Vec::new(),
            edge,
        })
    }

    /// One entry more.
    pub fn push(&mut self, entry: [u8; 32]) -> Result<(), RegisterError> {
        let hash = leaf(&entry);
        let hashes = stored_hashes_for_record_hash(self.size, hash, self).map_err(|_| self.tiles.broken())?;
        let first = stored_hash_index(0, self.size);
        self.new.extend((first..).zip(hashes));
        self.entries.push(entry);
        self.edge.push(hash);
        self.size += 1;
        Ok(())
    }

    /// The size now.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root now.
    pub fn root(&self) -> Hash {
        self.edge.root()
    }

    /// Writes all tiles that the growth changes. The checkpoint comes after that, by whoever has signed it.
    pub fn write(&self) -> Result<(), RegisterError> {
        let (mut together, mut written) = (Together::default(), Vec::new());
        let mut put = |level: &str, n: u64, width: u64, data: &[u8]| {
            let file = self.tiles.directory.join(path(level, n, width));
            let directory = file.parent().unwrap_or(&self.tiles.directory);
            together
                .make_directory(directory, 0o777)
                .and_then(|()| together.replace(&file, |new| new.write_all(data)))
                .map_err(RegisterError::file(&file))?;
            written.push((level.to_owned(), n, width));
            Ok::<(), RegisterError>(())
        };
        for tile in Tile::new_tiles(HEIGHT, self.old, self.size) {
            let data = tile.read_data(self).map_err(|_| self.tiles.broken())?;
            put(&tile.level().to_string(), tile.level_index(), u64::from(tile.width()), &data)?;
        }
        for n in self.old / WIDTH..self.size.div_ceil(WIDTH) {
            let first = n * WIDTH;
            let mut data = Vec::with_capacity(usize::from(u8::MAX) * ENTRY);
            let known = if first < self.old { self.tiles.entries(n, self.old)? } else { Vec::new() };
            let from = usize::try_from(first.saturating_sub(self.old)).unwrap_or(0);
            let room = usize::try_from(WIDTH).unwrap_or(0) - known.len();
            for entry in known.iter().chain(self.entries.iter().skip(from).take(room)) {
                data.extend([0, 32]);
                data.extend(entry);
            }
            put("entries", n, (self.size - first).min(WIDTH), &data)?;
        }
        together.sync().map_err(RegisterError::file(&self.tiles.directory))?;
        // Not before the wider ones are there for good.
        for (level, n, width) in written {
            self.clear_parts(&level, n, width);
        }
        Ok(())
    }

    /// Removes the narrower forms of a tile: all of them beside the whole one, else those before the last
    /// checkpoint's, which somebody may be reading by.
    fn clear_parts(&self, level: &str, n: u64, width: u64) {
        let directory = self.tiles.directory.join(path(level, n, WIDTH) + ".p");
        if width == WIDTH {
            let _ = fs::remove_dir_all(directory);
            return;
        }
        let at_level = if level == "entries" {
            self.old
        } else {
            self.old >> (level.parse::<u32>().unwrap_or(0) * u32::from(HEIGHT))
        };
        let kept = [width, at_level.saturating_sub(n << HEIGHT)].map(|w| w.to_string());
        for file in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !kept.iter().any(|k| file.file_name() == k.as_str()) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

impl HashReader for Growth<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        let hash = |index: &u64| match self.new.get(index) {
            Some(hash) => Ok(*hash),
            None => self.stored.read_hashes(&[*index])?.first().copied().ok_or(Error::InvalidTile),
        };
        indexes.iter().map(hash).collect()
    }
}

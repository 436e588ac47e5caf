//! Hash maps whose iteration order does not depend on the process.
//!
//! The hash is unkeyed: use these for ids that this system drew itself, and `BTreeMap` for names from outside.

/// A hash map with a fixed hash.
pub type Map<K, V> = std::collections::HashMap<K, V, BuildHasher>;

/// A hash set with a fixed hash.
pub type Set<K> = std::collections::HashSet<K, BuildHasher>;

/// The fixed hash of [`Map`] and [`Set`], for other containers.
pub type BuildHasher = std::hash::BuildHasherDefault<rustc_hash::FxHasher>;

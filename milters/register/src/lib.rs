//! What makes the retained log a register that nobody can bend (RFC 6109 s. 2.3, DPR 68/2005 art. 11).
//!
//! Promise: whoever holds one checkpoint can tell for ever after whether any row that was sealed by then was
//! changed, removed, inserted or moved, whoever did it, with whatever rights and keys.
//!
//! The way of a row: a milter inserts it ([`pec_state`]); within two seconds the [`sealer`] makes it a leaf
//! of the tree ([`row`], [`tree`]) and signs a [`checkpoint`]; [`verify`] computes all of it again.
//! docs/register.md has the whole picture.

pub mod attest;
pub mod audit;
pub mod checkpoint;
pub mod days;
pub mod error;
pub mod evidence;
pub mod prover;
pub mod ranges;
pub mod retire;
pub mod row;
pub mod rows;
pub mod sealer;
pub mod search;
pub mod tree;
pub mod tsa;
mod tsp;
pub mod verify;
pub mod verify_files;
pub mod witness;

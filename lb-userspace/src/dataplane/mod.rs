//! The kernel side: the loaded program, its maps, and one owner for each.

pub mod decap;
pub mod object;

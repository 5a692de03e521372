//! Turns what arrives into verified, stored, catalogued images.

pub mod inspect;

//! Settings of the daemons: units, sources, precedence.

pub mod units;

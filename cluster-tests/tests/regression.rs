//! Bugs that were found once: one short test each, named by what broke.

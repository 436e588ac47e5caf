//! Scenarios of one lifecycle manager, and a property test against a small model.

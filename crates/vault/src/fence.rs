//! May a request that changes a vault go out? Asked at the last moment before it does, of whoever keeps the right to write.
//! Who has that right is left to the operator, which leads by a lease.

use std::time::Duration;

/// Who keeps the right to write to vaults.
pub trait Fence: Send + Sync + std::fmt::Debug {
    /// Whether a write may begin now that takes at most so long.
    fn lets_write(&self, longest: Duration) -> bool;
}

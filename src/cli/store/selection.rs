//! The selection of objects by flags; an object must match all of them.

use clap::Args;

use gupd_cache::{ObjectSelection, PathGlob};
use gupd_config::Config;
use gupd_config::units::{Size, Time};
use gupd_store::{Inventory, Object};

/// Conditions on an object.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Glob for the path, case-insensitive: * within a segment, ** across segments, {a,b} alternatives.
    #[arg(long, value_name = "GLOB")]
    path: Option<PathGlob>,
    /// Content type, as in metrics and logs.
    #[arg(long, value_name = "NAME")]
    content_type: Option<String>,
    /// Revision in the path, such as 261121001, or the number at the start of a LiveUpdate payload name.
    #[arg(long, value_name = "NUMBER")]
    revision: Option<String>,
    /// Fetched or revalidated longer ago than this.
    #[arg(long, value_name = "TIME")]
    older_than: Option<Time>,
    /// Fetched or revalidated within this time.
    #[arg(long, value_name = "TIME")]
    newer_than: Option<Time>,
    /// Larger than this.
    #[arg(long, value_name = "SIZE")]
    larger_than: Option<Size>,
    /// Smaller than this.
    #[arg(long, value_name = "SIZE")]
    smaller_than: Option<Size>,
}

impl Selection {
    /// Returns an error if the content type is a typing error: neither known to the configuration nor stored, as types
    /// of an earlier configuration or of another site are.
    pub(super) fn check(&self, config: &Config, inventory: &Inventory) -> Result<(), String> {
        let Some(name) = &self.content_type else { return Ok(()) };
        let Err(message) = config.check_content_type(name) else { return Ok(()) };
        let has_type = |object: &Object| *object.content_type == **name;
        if inventory.objects().any(|object| object.as_ref().is_ok_and(has_type)) {
            return Ok(());
        }
        Err(format!("--content-type: {message}"))
    }

    /// Returns the conditions.
    pub(super) fn conditions(&self) -> ObjectSelection {
        let millis = |Time(time): Time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ObjectSelection {
            path: self.path.clone(),
            content_type: self.content_type.clone(),
            revision: self.revision.clone(),
            older_than_ms: self.older_than.map(millis),
            newer_than_ms: self.newer_than.map(millis),
            larger_than: self.larger_than.map(|Size(bytes)| bytes),
            smaller_than: self.smaller_than.map(|Size(bytes)| bytes),
        }
    }
}

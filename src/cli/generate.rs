//! `gupd completions` and `gupd man`: files that packages install, generated from the definition of the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::{CommandError, command_line};

/// Flags of `gupd completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionFlags {
    /// The shell.
    shell: Shell,
}

/// Flags of `gupd man`.
#[derive(Debug, Args)]
pub(super) struct ManFlags {
    /// Folder for the pages.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the completions of a shell.
pub(super) fn print_completions(flags: &CompletionFlags) {
    clap_complete::generate(flags.shell, &mut command_line(), "gupd", &mut std::io::stdout());
}

/// Writes a page for the program and for each of its commands.
pub(super) fn write_pages(flags: &ManFlags) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::Failed(format!(
            "{}: {error}: name a folder that can be written",
            flags.folder.display()
        ))
    };
    std::fs::create_dir_all(&flags.folder).map_err(failed)?;
    let mut command = command_line().disable_help_subcommand(true);
    command.build();
    write_page(&command, "gupd", &flags.folder).map_err(failed)
}

fn write_page(command: &clap::Command, name: &str, folder: &Path) -> std::io::Result<()> {
    let page = clap_mangen::Man::new(command.clone().display_name(name.to_owned())).title(name);
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(folder.join(format!("{name}.1")), text)?;
    let mut below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below.try_for_each(|below| write_page(below, &format!("{name}-{}", below.get_name()), folder))
}

//! The registry in a single binary.

mod compact;
mod config;
mod control;
mod convert;
mod events;
mod gc;
mod init;
mod live;
mod logs;
mod operation;
mod policy;
mod printer;
mod readings;
mod recurring;
mod rescue;
mod restore;
mod serve;
mod settings;
mod snapshot;
mod usage;
mod values;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tikv_jemallocator::Jemalloc;

use crate::printer::{Failure, Printer};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A container-image registry over a content-addressable store, in a single binary.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Gc(gc::Gc),
    Usage(usage::UsageCommand),
    Snapshot(snapshot::Snapshot),
    Restore(restore::Restore),
    Compact(compact::Compact),
    Verify(verify::Verify),
    Rescue(rescue::Rescue),
    Convert(convert::Convert),
    Config(config::ConfigCommand),
}

fn main() -> ExitCode {
    let printer = Printer::new();
    match run(printer) {
        Ok(code) => code,
        // Whoever reads the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(printer: Printer) -> Result<ExitCode, Failure> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version are asked for, and printed, this way too.
        Err(error) => {
            error.print().map_err(Failure::Output)?;
            return Ok(if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS });
        }
    };
    match arguments.command {
        Command::Serve(serve) => serve.run(printer)?,
        Command::Gc(gc) => gc.run(printer)?,
        Command::Usage(usage) => usage.run(printer)?,
        Command::Snapshot(snapshot) => snapshot.run(printer)?,
        Command::Restore(restore) => restore.run(printer)?,
        Command::Compact(compact) => compact.run(printer)?,
        Command::Convert(convert) => convert.run(printer)?,
        Command::Verify(verify) => return verify.run(printer),
        Command::Rescue(rescue) => return rescue.run(printer),
        Command::Config(config) => return config.run(printer),
    }
    Ok(ExitCode::SUCCESS)
}

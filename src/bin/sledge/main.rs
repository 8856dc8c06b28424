//! The registry in a single binary.

mod printer;
mod serve;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::printer::{Failure, Printer};

/// A container-image registry over a content-addressable store, in a single binary.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new();
    let done = match arguments.command {
        Command::Serve(serve) => serve.run(printer),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::FAILURE
        }
    }
}

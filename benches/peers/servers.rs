//! The other servers, each on a port of its own, with its data in a folder that goes away.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::Server;

/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    /// Debian's `docker-registry`, as it is shipped but for its log.
    pub(crate) fn docker_registry(folder: &Path) -> Option<Self> {
        let address = free_address();
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nhttp: {{addr: {address}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
            folder.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        Self::start(Command::new("docker-registry").arg("serve").arg(config), address)
    }

    /// nginx, which sends a folder's files by `sendfile`.
    pub(crate) fn nginx(folder: &Path) -> Option<Self> {
        let address = free_address();
        let config = folder.join("nginx.conf");
        let (root, processors) = (folder.display(), thread::available_parallelism().map_or(1, Into::into));
        let text = format!(
            "worker_processes {processors}; daemon off; pid {root}/nginx.pid; error_log /dev/null;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
             client_body_temp_path {root}/body; server {{ listen {address}; root {root}/files; }} }}\n"
        );
        fs::write(&config, text).unwrap();
        Self::start(Command::new("nginx").args(["-e", "/dev/null", "-c"]).arg(config), address)
    }

    /// None where there is no such program.
    fn start(command: &mut Command, address: String) -> Option<Self> {
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let (server, began) = (Self { process, address }, Instant::now());
        while TcpStream::connect(&server.address).is_err() {
            assert!(began.elapsed() < PATIENCE, "{command:?} does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Seconds of the processors that it has used.
    pub(crate) fn processor_time(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

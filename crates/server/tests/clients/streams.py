"""A session of the Python client with the pod p: commands and ports. Arguments: the server, a port that echoes."""

import sys

from kubernetes import client
from kubernetes.stream import portforward, stream

server, port = sys.argv[1], int(sys.argv[2])
configuration = client.Configuration()
configuration.host = server
core = client.CoreV1Api(client.ApiClient(configuration))


def exec_(command, **options):
    core = client.CoreV1Api(client.ApiClient(configuration))
    options = {"stdin": False, "stdout": True, "stderr": True, "tty": False} | options
    return stream(core.connect_get_namespaced_pod_exec, "p", "default", command=command, **options)


print(exec_(["sh", "-c", "echo $CONTAINER"]).strip())

session = exec_(["sh", "-c", "cat; echo err >&2; exit 5"], stdin=True, _preload_content=False)
session.write_stdin("to and fro\n")
session.close_channel(0)
session.run_forever(timeout=240)
print(session.read_stdout().strip(), session.read_stderr().strip(), session.returncode)

session = exec_(["head", "-c", "300000"], stdin=True, _preload_content=False, binary=True)
session.write_stdin(bytes(300000))
session.run_forever(timeout=240)
print(len(session.read_stdout()), session.returncode)

# Asked for its text, this client gives the text of a Python literal.
print(core.read_namespaced_pod_log("p", "default", _preload_content=False).data.decode().strip())

forwarding = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports=str(port))
socket = forwarding.socket(port)
socket.settimeout(240)
socket.sendall(b"x" * 200000)
got = 0
while got < 200000:
    got += len(socket.recv(65536))
socket.close()
print(got, forwarding.error(port))

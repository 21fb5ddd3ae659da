"""Which globals only an attack names: a file with one of them is refused, called or not.

Nothing that a pickle names is ever imported or called here, so no name can do harm. But the same
file given to torch.load could, and whoever has it should know. A training program keeps classes,
functions and settings beside its tensors; it does not keep what starts programs, runs source text,
opens files or sockets, loads other pickles, or reaches from one object to any other.
This is a list of well-known roads and not a proof: what is not on it becomes a stand-in.
"""

from __future__ import annotations

# Modules, classes and functions, with all that is in them. Names of Python 2 are here as well,
# since pickles of protocol 2 have them. Modules of which a checkpoint could keep something harmless
# (a version, an empty default of a signature) are named by their functions.
_NAMES = """
os posix nt sys subprocess _posixsubprocess _winapi winreg _winreg pty pexpect popen2
commands.getoutput commands.getstatusoutput platform.popen uuid._popen uuid._get_command_stdout
multiprocessing.util multiprocessing.spawn multiprocessing.popen_fork
multiprocessing.popen_spawn_posix multiprocessing.popen_spawn_win32 thread.start_new_thread
_thread atexit gc webbrowser antigravity this pip.main pip._internal ensurepip venv

builtins.eval builtins.exec builtins.execfile builtins.compile builtins.apply builtins.open
builtins.file builtins.__import__ builtins.reload builtins.input builtins.raw_input
builtins.breakpoint builtins.globals builtins.locals
builtins.vars builtins.__build_class__ builtins.help builtins.exit builtins.quit
types.CodeType types.FunctionType
importlib _frozen_importlib _frozen_importlib_external imp _imp pkgutil runpy zipimport
code.InteractiveInterpreter code.InteractiveConsole code.interact codeop bdb cProfile
pdb.Pdb pdb.run pdb.runeval pdb.runctx pdb.runcall pdb.set_trace pdb.post_mortem pdb.pm
profile.Profile profile.run profile.runctx trace.Trace timeit doctest pydoc idlelib lib2to3
pandas.eval pandas.core.computation numpy.testing numpy.f2py numpy.distutils
distutils.core distutils.spawn distutils.file_util distutils.dir_util distutils.sysconfig
torch.utils.cpp_extension torch.utils.collect_env torch.utils.bottleneck
torch._inductor.codecache torch._dynamo.guards.GuardBuilder
torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression
torch.jit.unsupported_tensor_ops ctypes _ctypes cffi _cffi_backend numpy.ctypeslib
torch.ops.load_library torch.classes.load_library

io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO codecs.open shutil fileinput
linecache mmap sqlite3 _sqlite3 dbm
socket _socket socketserver ssl _ssl asyncio http.client http.server httplib urllib.request
urllib2 urllib.urlopen urllib.urlretrieve ftplib smtplib smtpd telnetlib imaplib poplib nntplib
xmlrpc xmlrpclib SimpleHTTPServer BaseHTTPServer CGIHTTPServer wsgiref
requests.api requests.sessions requests.get requests.post requests.request paramiko
httpx.get httpx.post aiohttp logging.config

pickle _pickle cPickle marshal shelve
dill.load dill.loads dill._dill.load dill._dill.loads joblib.load cloudpickle.load
cloudpickle.loads yaml.load yaml.unsafe_load yaml.full_load
pandas.read_pickle pandas.io.pickle.read_pickle
numpy.load numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.fromregex numpy.memmap
numpy.save numpy.savez numpy.savetxt numpy.lib.npyio.load numpy.lib._npyio_impl.load
torch.load torch.save torch.serialization.load torch.serialization.save torch.from_file
torch.hub torch.package torch.jit.load torch.jit._serialization torch.export.load
torch.storage._load_from_bytes torch.utils._config_module
torch.utils.data.datapipes.utils.decoder
"""
_HOSTILE = frozenset(_NAMES.split())
_LONGEST = max(name.count(".") for name in _HOSTILE) + 1
# What modules of the operating system have of plain data: a record of the machine, say. And the
# name under which dill keeps the variables of the functions that it writes.
_PLAIN = {"__main__.__dict__"} | frozenset(
    f"{module}.{name}"
    for module in ("os", "posix", "nt")
    for name in ("PathLike", "stat_result", "terminal_size", "times_result", "uname_result")
)
# Also behind other names, as in `torch._utils.os.system`: a module's own imports are attributes.
_BEHIND_OTHERS = frozenset(("os", "posix", "nt", "sys", "subprocess", "builtins", "__builtins__"))
_METHODS = frozenset(("__new__", "__init__", "__call__"))  # of a class, pickled by their names


def is_hostile(module: str, name: str) -> bool:
    """Whether `name`, which may have dots, of a module or a class has no place in a checkpoint.

    >>> is_hostile("posix", "system"), is_hostile("posixpath", "join")
    (True, False)
    """
    attributes = name.split(".")
    if f"{module}.{name}" in _PLAIN:
        return False
    if any(_is_special(attribute) for attribute in attributes):
        return True  # __class__, __globals__, __subclasses__: from one object to all others
    parts = [*module.split("."), *attributes]
    if not _BEHIND_OTHERS.isdisjoint(parts[1:]):
        return True
    if parts[0] == "pathlib" and any(part[:1].isupper() for part in parts[1:-1]):
        return True  # Path.write_text, Path.unlink
    counts = range(1, min(len(parts), _LONGEST) + 1)
    return any(".".join(parts[:n]) in _HOSTILE for n in counts)


def _is_special(name: str) -> bool:
    return len(name) > 4 and name[:2] == name[-2:] == "__" and name not in _METHODS

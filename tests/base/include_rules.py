"""Fails if a folder of src/ or a public header includes what its room must not (the rooms are listed in README.md).

Usage: include_rules.py REPOSITORY
"""
import pathlib
import re
import sys

# Room -> rooms whose headers it may include. Every room may include base, its own and the public headers; 'proto' stands for generated code.
ALLOWED = {
    'base': [],
    'kernels': [],
    'record': [],
    'fab': ['record'],
    'wire': ['record', 'proto'],
    'app': ['record'],
    'store': ['wire'],
    'link': ['app', 'store', 'wire', 'proto'],
    'node': ['app', 'wire', 'proto'],
    'transport': ['link', 'node', 'wire', 'proto'],
    'process': ['link', 'node', 'transport', 'wire', 'proto'],
    'aggregation': ['record', 'kernels'],
    'strategy': ['app', 'aggregation', 'record', 'wire', 'proto'],
    'simulation': ['app', 'record'],
    'model': ['record', 'kernels'],
}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.M)
PRIVATE_LIBRARIES = re.compile(r'^(grpc|google/protobuf|flwr/|spdlog|cuda|nlohmann|openssl|png|zip)')
TORCH = re.compile(r'^(ATen|c10|torch)/')


def room_of(include):
    if include.startswith(('flwr/', 'fedumm/proto/')):
        return 'proto'
    return include.split('/')[0] if '/' in include else None


def problems(repository):
    for path in sorted((repository / 'src').rglob('*')):
        if path.suffix not in ('.h', '.cc', '.cu', '.cuh'):
            continue
        name = path.relative_to(repository).as_posix()
        room = name.split('/')[1]
        allowed = {'base', room, *ALLOWED[room]}
        if room == 'base':
            allowed = {'base'}
        for include in INCLUDE.findall(path.read_text()):
            target = room_of(include)
            if target in (*ALLOWED, 'proto') and target not in allowed:
                yield f'{name} ({room}) must not include {include}'
            if room != 'model' and TORCH.match(include):
                yield f'{name} must not include LibTorch: {include}'
            if room in ('link', 'record', 'wire', 'strategy', 'store', 'app', 'aggregation') and re.match(r'grpc', include):
                yield f'{name} must not include gRPC: {include}'
    for path in sorted((repository / 'include/fedumm').rglob('*.h')):
        name = path.relative_to(repository).as_posix()
        for include in INCLUDE.findall(path.read_text()):
            if PRIVATE_LIBRARIES.match(include) or room_of(include) in (*ALLOWED, 'proto'):
                yield f'public header {name} must not include {include}'
            if TORCH.match(include) and '/model/' not in name:
                yield f'public header {name} must not include LibTorch: {include}'


found = list(problems(pathlib.Path(sys.argv[1])))
print('\n'.join(found) or 'include rules hold')
sys.exit(1 if found else 0)

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
# Folder of src/model -> folders of src/model whose headers, private and public, it and its own public headers may include. Every folder may
# include its own headers, those of src/model itself, and what ALLOWED says for the room.
MODEL_ALLOWED = {
    'data': [],
    'eval': ['data'],
    'backbone': [],
    'checkpoint': ['backbone'],
    'encoder': ['backbone', 'checkpoint', 'data'],
    'lora': ['backbone', 'checkpoint'],
    'tasks': ['backbone', 'checkpoint', 'data', 'encoder'],
    'diffusion': ['backbone', 'checkpoint', 'data', 'tasks'],
    'train': ['backbone', 'checkpoint', 'lora', 'tasks'],
    'demo': ['backbone', 'checkpoint', 'data', 'lora', 'tasks', 'train'],
    'scenes': ['backbone', 'checkpoint', 'data', 'demo', 'eval', 'lora', 'tasks', 'train'],
    'world': ['backbone', 'checkpoint', 'data', 'demo', 'encoder', 'eval', 'lora', 'scenes', 'tasks', 'train'],
}
# The folder of src/model that implements each public header of include/fedumm/model.
MODEL_HEADERS = {
    'backbone.h': 'backbone', 'device.h': 'backbone', 'generation.h': 'backbone', 'config.h': 'backbone', 'linear.h': 'backbone', 'positions.h': 'backbone',
    'checkpoint.h': 'checkpoint', 'safetensors.h': 'checkpoint',
    'eva.h': 'encoder', 'latents.h': 'encoder',
    'geneval.h': 'eval',
    'image.h': 'data', 'partition.h': 'data', 'tokenizer.h': 'data', 'vqa.h': 'data', 'vqa_folder.h': 'data',
    'lora.h': 'lora', 'lora_bank.h': 'lora', 'parameters.h': 'lora', 'peft_config.h': 'lora',
    'client.h': 'train', 'train.h': 'train',
    'task.h': 'tasks',
    'draw.h': 'diffusion', 'pixel_decoder.h': 'diffusion',
    'demo.h': 'demo', 'easy_vqa.h': 'demo',
    'geneval.h': 'eval', 'geneval_models.h': 'eval',
    'world.h': 'world',
}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.M)
PRIVATE_LIBRARIES = re.compile(r'^(grpc|google/protobuf|flwr/|spdlog|cuda|nlohmann|openssl|png|zip)')
TORCH = re.compile(r'^(ATen|c10|torch)/')


def room_of(include):
    if include.startswith(('flwr/', 'fedumm/proto/')):
        return 'proto'
    return include.split('/')[0] if '/' in include else None


def model_folder_of(include):
    """The folder of src/model that a header belongs to; None for headers of other rooms and of src/model itself."""
    parts = include.split('/')
    if parts[:2] == ['fedumm', 'model']:
        return MODEL_HEADERS.get(parts[2], f'no folder (add {parts[2]} to MODEL_HEADERS)')
    return parts[1] if parts[0] == 'model' and len(parts) == 3 else None


def model_problems(name, folder, includes):
    if folder not in MODEL_ALLOWED:
        yield f'{name}: {folder} is not in MODEL_ALLOWED'
        return
    for include in includes:
        target = model_folder_of(include)
        if target not in (None, folder, *MODEL_ALLOWED[folder]):
            yield f'{name} (model/{folder}) must not include {include} (model/{target})'


def problems(repository):
    for path in sorted((repository / 'src').rglob('*')):
        if path.suffix not in ('.h', '.cc', '.cu', '.cuh'):
            continue
        name = path.relative_to(repository).as_posix()
        room = name.split('/')[1]
        allowed = {'base', room, *ALLOWED[room]}
        if room == 'base':
            allowed = {'base'}
        includes = INCLUDE.findall(path.read_text())
        if room == 'model' and name.count('/') == 3:
            yield from model_problems(name, name.split('/')[2], includes)
        for include in includes:
            target = room_of(include)
            if target in (*ALLOWED, 'proto') and target not in allowed:
                yield f'{name} ({room}) must not include {include}'
            if room != 'model' and TORCH.match(include):
                yield f'{name} must not include LibTorch: {include}'
            if room in ('link', 'record', 'wire', 'strategy', 'store', 'app', 'aggregation') and re.match(r'grpc', include):
                yield f'{name} must not include gRPC: {include}'
    for path in sorted((repository / 'include/fedumm').rglob('*.h')):
        name = path.relative_to(repository).as_posix()
        if '/model/' in name:
            yield from model_problems(name, model_folder_of(name.removeprefix('include/')), INCLUDE.findall(path.read_text()))
        for include in INCLUDE.findall(path.read_text()):
            if PRIVATE_LIBRARIES.match(include) or room_of(include) in (*ALLOWED, 'proto'):
                yield f'public header {name} must not include {include}'
            if TORCH.match(include) and '/model/' not in name:
                yield f'public header {name} must not include LibTorch: {include}'


found = list(problems(pathlib.Path(sys.argv[1])))
print('\n'.join(found) or 'include rules hold')
sys.exit(1 if found else 0)

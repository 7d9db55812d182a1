"""The package that the CIFAR-10 notebooks import.

The modules in reading order. Each one imports only from those above it.

Data:
    config            profiles, settings, and environment variables
    files             atomic writes, file locks, errors for damaged files
    device            device, mixed precision, memory format
    data              CIFAR-10 and its sample in memory
    transforms        augmentations with Albumentations
    loaders           training batches that a seed reproduces

Models:
    inspection        layers, receptive field, size and cost of any PyTorch model
    models            the networks, one module each
    evaluation        predictions, accuracy, confidence, mistakes

Training:
    optim             training configuration, optimizers, learning rate schedule
    init              weight initialization
    checkpoints       checkpoints that survive a kill at any moment
    progress          progress bar and remaining time
    training          the training loop
    lr_finder         learning rate finder
    requirements      the requirements of the assignments, and their checks
    results           the files of a run: weights, metrics, tables
    comparison        whether two results differ by more than chance
    experiments       which network is trained how, and how a run is done
    quick_profile     the number of images that a quick run can train on

Notebooks:
    plotting          figures of data, runs and predictions
    drawings          drawings of convolutions, receptive fields and networks
    grad_cam          Grad-CAM and occlusion maps
    colab             set-up, figures as files, source code, downloads

Command line:
    model_checker     checks the networks of other people against an assignment
    verification      evaluates the saved models again
    notebook_runner   runs notebooks from top to bottom
    report            writes the tables and pages
    cli               the commands of `python -m helpers`
"""

import os

# Otherwise importing Albumentations, which several modules do, accesses the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

"""Reference architectures, in their usual forms for small images. To add one, write it and add it to `MODELS`."""

from taster.models.lenet import lenet
from taster.models.mlp import mlp
from taster.models.resnet import resnet18
from taster.models.small_cnn import small_cnn
from taster.models.trades_cnn import trades_cnn
from taster.models.vgg import vgg11
from taster.models.vit import vit

MODELS = {model.__name__: model for model in (mlp, lenet, small_cnn, trades_cnn, resnet18, vgg11, vit)}

__all__ = ["MODELS", "lenet", "mlp", "resnet18", "small_cnn", "trades_cnn", "vgg11", "vit"]

# The public names, and the modules that define them: `__init__.py` imports each when it is first used.
from .data.find_images import load_masked_dataset as load_masked_dataset
from .data.image_sets import load_image_set as load_image_set
from .data.transforms import eval_transform as eval_transform
from .data.transforms import train_transform as train_transform
from .diagnosis.diagnose import diagnose as diagnose
from .improvement.improve import improve as improve
from .models.added_classifiers import CLIPZeroShotForImageClassification as CLIPZeroShotForImageClassification
from .models.added_classifiers import DINOv3ViTForImageClassification as DINOv3ViTForImageClassification
from .models.image_processors import make_image_processor as make_image_processor
from .models.loading import load_model as load_model
from .relevance.pipeline import RelevanceMapPipeline as RelevanceMapPipeline
from .relevance.relevance_map import RelevanceOutput as RelevanceOutput
from .relevance.relevance_map import relevance_map as relevance_map
from .training.config import RobustViTConfig as RobustViTConfig
from .training.losses import ConfidenceLoss as ConfidenceLoss
from .training.losses import RelevanceLoss as RelevanceLoss
from .training.trainer import RobustViTTrainer as RobustViTTrainer

__version__: str
